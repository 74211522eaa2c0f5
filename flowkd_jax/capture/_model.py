"""What the rest of the package knows of a model, of whichever framework."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from jaxtyping import Array
from jaxtyping import Key

Variables = Mapping[str, Any]
# Whether something is to be marked: its path, and whether it is sown.
IsWanted = Callable[[str, bool], bool]

Pool = Callable[[Array], Array]


class Model(Protocol):
  """A model as a pure function that marks what is wanted of it.

  Attributes:
    name: What to call it in messages.
    taps: Names or patterns of its taps, by default; None for all that it sows.
    pool: What becomes of taps with positions, `[batch, positions, ..., dim]`; None
      leaves them as they are.

  A model may also have `logits`, a function that chooses the logits among what `apply`
  returns.
  """

  @property
  def name(self) -> str: ...

  @property
  def taps(self) -> Any: ...

  @property
  def pool(self) -> Pool | None: ...

  def init(self, key: Key[Array, ""], images: Array) -> dict[str, Any]:
    """Variables to start from; a module that has its weights keeps them."""
    ...

  def apply(
    self,
    variables: Variables,
    images: Array,
    *,
    is_wanted: IsWanted,
    train: bool,
    mask: Array | None,
    rngs: Mapping[str, Array] | None,
    mutable: Sequence[str],
  ) -> tuple[Any, dict[str, Any]]:
    """Returns `(output, {collection: its new values})` of those in `mutable`."""
    ...


def nothing_wanted(path: str, sown: bool) -> bool:
  """For `is_wanted`: only the output is of interest."""
  del path, sown
  return False

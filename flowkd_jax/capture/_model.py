"""Interface of a model of any framework for the rest of the package."""

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
    name: Name in messages.
    taps: Names or patterns of its taps, by default; None for all that it sows.
    pool: What becomes of taps with positions, `[batch, positions, ..., dim]`; None
      leaves them as they are.

  A model may also have `logits`, a function that chooses the logits among what `apply`
  returns. `with_taps`, `pooled` and `with_logits` set `taps`, `pool` and `logits`: they
  take a model that is a dataclass with that field.
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
    """Returns `(output, {collection: its new values})` of those in `mutable`.

    Args:
      variables: The variables by collection; "params" is what is trained.
      images: The batch.
      is_wanted: `(path, sown) -> bool`. If it is true, `apply` passes the activation
        through `tag` with the same two. `sown` says whether the model sows it, as
        opposed to the output of one of its modules.
      train: True if the model is in training.
      mask: Rows that are valid, or None.
      rngs: Keys by name, "dropout" in training, or None.
      mutable: Collections that may be updated: all but "params" in training.
    """
    ...


def nothing_wanted(path: str, sown: bool) -> bool:
  """For `is_wanted`: only the output is of interest."""
  del path, sown
  return False

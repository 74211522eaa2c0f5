"""Interface between models of any framework and the rest of the package."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

from jaxtyping import Array
from jaxtyping import Key

Variables = Mapping[str, Any]
# Function `(path, sown) -> bool`: whether an activation is to be marked.
IsWanted = Callable[[str, bool], bool]

Pool = Callable[[Array], Array]


class Model(Protocol):
  """Model as a pure function that marks the requested activations.

  Attributes:
    name: Name of the model in messages.
    taps: Names or patterns of default taps; None for all sown activations.
    pool: Pooling of taps with positions, `[batch, positions, ..., dim]`; None for no
      pooling.

  A model may also have `logits`, a function that chooses the logits from the outputs of
  `apply`. `with_taps`, `pooled` and `with_logits` set the fields `taps`, `pool` and
  `logits` of a model that is a dataclass.
  """

  @property
  def name(self) -> str: ...

  @property
  def taps(self) -> Any: ...

  @property
  def pool(self) -> Pool | None: ...

  def init(self, key: Key[Array, ""], images: Array) -> dict[str, Any]:
    """Initial variables; a module with weights of its own returns these."""
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
    """Returns `(output, {collection: new values})` for the collections in `mutable`.

    Args:
      variables: Variables by collection; "params" is trained.
      images: Batch of images.
      is_wanted: `(path, sown) -> bool`. If true, `apply` passes the activation through
        `tag` with the same `path` and `sown`. `sown` is true for a sown activation and
        false for the output of a module.
      train: True if the model is in training mode.
      mask: Mask of valid rows, or None.
      rngs: Random keys by name, "dropout" in training, or None.
      mutable: Collections that may be updated: in training, all but "params".
    """
    ...


def nothing_wanted(path: str, sown: bool) -> bool:
  """Argument for `is_wanted` if no tap is needed."""
  del path, sown
  return False

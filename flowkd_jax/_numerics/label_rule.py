"""Rule by which all losses, metrics and methods read class labels.

- Labels are widened to int32 first, so 255 in uint8 is class 255.
- A negative label marks a row without a label, as -100 does in PyTorch. A function that
  reads labels leaves this row out, as if it were masked.
- A label at or above the number of classes raises ValueError in a NumPy array or a
  list. In a JAX array the result is NaN, because an error would have to wait for the
  device.
- Labels of masked rows are not read.

The documentation of `flowkd_jax.losses` states the rule for users.
"""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax._numerics import checks

_LARGEST = 2**28
_HOST = (np.ndarray, np.generic)


class Labels(NamedTuple):
  """Labels that are safe to index with.

  Attributes:
    classes: Class of each row in int32, from 0 to the number of classes minus 1. It is
      0 for a row without a label.
    labelled: True for rows that have a label and are not masked.
    beyond: True for `labelled` rows whose label is at or above the number of classes.
  """

  classes: Int[Array, "..."]
  labelled: Bool[Array, "..."]
  beyond: Bool[Array, "..."]

  def invalidate(self, rows: Float[Array, "..."]) -> Float[Array, "..."]:
    """The values of the rows, with NaN where the label is beyond the classes."""
    # A product and not `where`: the gradient becomes NaN too.
    extra = rows.ndim - self.beyond.ndim
    beyond = self.beyond.reshape(*self.beyond.shape, *(1,) * extra)
    return rows * jnp.where(beyond, jnp.nan, 1).astype(rows.dtype)

  def one_hot(
    self, num_classes: int, dtype: DTypeLike = jnp.float32
  ) -> Float[Array, "... classes"]:
    """One-hot rows: zero without a label, NaN for a label beyond the classes."""
    rows = jax.nn.one_hot(self.classes, num_classes, dtype=dtype)
    return self.invalidate(rows * self.labelled[..., None].astype(dtype))


def read_labels(
  labels: Any,
  num_classes: int,
  *,
  shape: tuple[int, ...],
  mask: Shaped[Array, "..."] | None = None,
  name: str = "labels",
) -> Labels:
  """Reads labels by the rule of this module.

  Args:
    labels: Integers, as an array or as a list.
    num_classes: Number of classes.
    shape: Shape that the labels must have.
    mask: True for real rows, all by default.
    name: Name of the argument, for error messages.

  Raises:
    TypeError: If the labels are not integers.
    ValueError: If the labels are of another shape than `shape`, or a label in a NumPy
      array is at or above the number of classes.
  """
  labels = checked_labels(labels, num_classes, shape=shape, mask=mask, name=name)
  classes = jnp.asarray(labels)
  labelled = classes >= 0
  if mask is not None:
    labelled &= jnp.asarray(mask).astype(bool)
  known = labelled & (classes < num_classes)
  return Labels(jnp.where(known, classes, 0), labelled, labelled & ~known)


def checked_labels(
  labels: Any,
  num_classes: int,
  *,
  shape: tuple[int, ...],
  mask: Shaped[Array, "..."] | None = None,
  name: str = "labels",
) -> Any:
  """Labels as int32, -1 for a missing label and `num_classes` for one beyond the range.

  NumPy arrays and lists are returned as NumPy arrays. Arguments and errors are those of
  `read_labels`.
  """
  labels = _as_array(name, labels)
  checks.check_integer(name, labels)
  checks.check_shape(name, labels, shape)
  if isinstance(labels, _HOST) and not isinstance(mask, jax.Array):
    _check_range(name, labels, num_classes, mask)
  return widened(labels, num_classes)


def widened(labels: Any, largest: int = _LARGEST) -> Any:
  """Labels as int32, clipped to the range from -1 to `largest`.

  NumPy arrays stay on the host. Labels are clipped before their dtype is narrowed.
  Otherwise the overflow of a large number could look like a class or a missing label.
  """
  xp: Any = np if isinstance(labels, _HOST) else jnp
  if labels.dtype.itemsize < 4:
    labels = labels.astype(xp.int32)
  labels = xp.minimum(labels, xp.asarray(largest, labels.dtype))
  if jnp.issubdtype(labels.dtype, jnp.signedinteger):
    labels = xp.maximum(labels, xp.asarray(-1, labels.dtype))
  return labels.astype(xp.int32)


def _as_array(name, labels):
  """Numbers and sequences as an array. Anything else is returned for later checks."""
  if not isinstance(labels, int | Sequence) or isinstance(labels, str):
    return labels
  if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(labels)):
    return jnp.asarray(labels)
  try:
    return np.asarray(labels)
  except ValueError as error:  # rows of unlike lengths
    raise ValueError(
      f"{name}: expected one integer per row, got a list of lists ({error})"
    ) from None


def _check_range(name, labels, num_classes, mask):
  beyond = labels >= num_classes
  if mask is not None:
    beyond &= np.asarray(mask).astype(bool)
  if beyond.any():
    row = int(np.argmax(beyond))
    raise ValueError(
      f"{name}: expected classes from 0 to {num_classes - 1}, or a negative number for "
      f"a row without a label, got {labels.reshape(-1)[row]} in row {row}; renumber "
      f"the classes or use a model with more than {num_classes} classes"
    )

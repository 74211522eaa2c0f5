"""Similarity matrices between the layers of two networks."""

import functools
import itertools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax import _taps
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics.label_rule import checked_labels

# Arrays of NumPy or JAX, `[rows, ...]`, or (name, array) pairs.
Taps = Sequence[Any]
# Number of columns that are multiplied at a time. It is constant, so that taps of all
# widths share one compiled program.
_COLUMNS_AT_ONCE = 256
_BYTES_AT_ONCE = 2**28
# HSIC1 divides by the number of rows minus 3.
_LEAST_DEBIASED = 4


def cka_matrix(
  student: Taps,
  teacher: Taps,
  *,
  debiased: bool = False,
  batch_size: int | None = None,
) -> Float[np.ndarray, "student_taps teacher_taps"]:
  """Linear CKA between each student tap and each teacher tap; 1 is most similar.

  The definition is that of Kornblith et al. 2019, section 3, over all rows at once. The
  values are `1 - losses.linear_cka`, with the same option `debiased`. The biased CKA of
  unrelated taps grows with the ratio of widths to rows, so it prefers wide taps if
  there are few rows. The debiased CKA of unrelated taps is 0 on average, and can be
  negative.

  With `batch_size`, the three estimates are averaged over batches before the ratio is
  taken (Nguyen et al. 2021, Eq. 5). With `debiased=True`, the result then depends on
  the batch size only through noise, and the time grows linearly with the number of
  rows.

  With N rows, T taps in both networks and total width W, the function takes `O(N^2 (W +
  T^2))` time. Besides the taps, it needs 256 MiB of memory for blocks of the N x N
  matrices. It is compiled once for all widths.

  Args:
    student: Activations `[rows, ...]`, from input to output: a sequence of arrays or of
      `(name, array)` pairs. A mapping does not keep its order under `jax.jit`.
    teacher: Activations of the teacher on the same rows, in the same form.
    debiased: True to use the unbiased estimates HSIC1 of all three terms.
    batch_size: Maximum number of rows in a batch. Batches have nearly equal sizes and
      keep the order of the rows. None uses all rows at once.

  Raises:
    TypeError: If a tap is not floating point, or taps are a mapping.
    ValueError: If there are no taps, the rows disagree, `batch_size` is not positive,
      or a batch has fewer than 4 rows with `debiased`.

  Example:
    >>> import numpy as np
    >>> taps = [np.eye(8)[:, :3], np.eye(8)[:, 2:]]
    >>> cka_matrix(taps, taps, debiased=True).diagonal().round(4)
    array([1., 1.])

  References:
    Nguyen, Raghu and Kornblith, "Do wide and deep networks learn the same things?",
    ICLR 2021.
  """
  students, teachers = (
    [tap for _, tap in _taps.ordered_taps(argument, taps)]
    for argument, taps in (("student", student), ("teacher", teacher))
  )
  for left in students:
    for right in teachers:
      checks.check_features(student=left, teacher=right)
  taps = [np.asarray(tap) for tap in (*students, *teachers)]
  batches = _batches(len(taps[0]), batch_size, debiased=debiased)
  products = _products_of_similarities(taps, batches, debiased=debiased)
  sizes = np.sqrt(np.diagonal(products))
  still = sizes == 0
  alignment = products / np.where(still, 1, sizes) / np.where(still, 1, sizes)[:, None]
  # As in `losses.linear_cka`, two taps with constant rows have CKA 1.
  alignment[still[:, None] & still] = 1
  return np.clip(alignment[: len(students), len(students) :], -1, 1)


def _batches(rows: int, batch_size: int | None, *, debiased: bool) -> list[slice]:
  """Rows of each batch; the sizes of batches differ by at most one row."""
  if batch_size is not None:
    checks.check_count("batch_size", batch_size)
  number = 1 if batch_size is None else -(-rows // batch_size)
  bounds = [rows * i // number for i in range(number + 1)]
  least = rows // number
  if debiased and least < _LEAST_DEBIASED:
    raise ValueError(
      f"debiased: expected at least {_LEAST_DEBIASED} rows in each batch, got {least}; "
      "take more examples, a larger batch_size, or debiased=False"
    )
  return [slice(*pair) for pair in itertools.pairwise(bounds)]


def flow_distance_matrix(
  student: Taps,
  teacher: Taps,
  *,
  labels: Int[np.ndarray, " rows"],
  num_classes: int,
  kernel: kernels.Kernel | None = None,
  block_size: int | None = 512,
) -> Float[np.ndarray, "student_taps teacher_taps"]:
  """Distances `|w_s[i] - w_t[j]|` between the information flows of two networks.

  The paper's layer map kappa takes the nearest teacher tap by these distances (Passalis
  et al. 2020, section 3.1). The cost is that of
  `information.quadratic_mutual_information` for each tap. The function is compiled once
  for all widths between two powers of two.

  Args:
    student: Activations `[rows, ...]`, from input to output: a sequence of arrays or of
      `(name, array)` pairs. A mapping does not keep its order under `jax.jit`.
    teacher: Activations of the teacher on the same rows, in the same form.
    labels: Class of each row; rows with a negative label are left out.
    num_classes: Number of classes.
    kernel: Pairwise kernel; cosine by default.
    block_size: Number of rows that are evaluated at a time.

  Raises:
    TypeError: If a tap is not floating, the labels are not integers, or taps are a
      mapping.
    ValueError: If there are no taps or shapes disagree.
  """
  # Checked here, because under `jit` an invalid label could only give NaN.
  classes = checked_labels(labels, num_classes, shape=np.shape(labels))
  chosen = kernels.as_kernel(kernel)
  flows = [
    [
      float(_information(_padded(name, tap), classes, chosen, num_classes, block_size))
      for name, tap in _taps.ordered_taps(argument, taps)
    ]
    for argument, taps in (("student", student), ("teacher", teacher))
  ]
  return np.abs(np.subtract.outer(*flows))


def dead_share(activations: Float[np.ndarray, "rows ..."]) -> float:
  """Share of units that have the same value for all examples.

  Args:
    activations: Activations of a tap on some examples. Each entry of a row is a unit.
  """
  rows = np.asarray(activations).reshape(len(activations), -1)
  return float((rows == rows[:1]).all(axis=0).mean())


class _Centred(NamedTuple):
  """Tap on the host, with the numbers that scale its rows to mean 0 and spread 1.

  Attributes:
    rows: Flattened rows.
    unit: Power of two by which the rows are divided first, so that squares do not
      overflow.
    means: Mean of each column, in units of `unit`.
    factor: Inverse of the root mean squared norm of the centred rows; 0 if all rows are
      equal up to rounding.
  """

  rows: Float[np.ndarray, "rows dim"]
  unit: float
  means: Float[np.ndarray, " dim"]
  factor: float

  @property
  def spread(self) -> float:
    return self.unit / self.factor if self.factor else 0.0

  def columns(self) -> Iterator[Float[np.ndarray, "rows columns"]]:
    """Yield centred columns in groups of `_COLUMNS_AT_ONCE`, padded with zeros."""
    dtype = _dtype_of(self.rows)
    for start in range(0, self.rows.shape[1], _COLUMNS_AT_ONCE):
      block = slice(start, start + _COLUMNS_AT_ONCE)
      values = self.rows[:, block].astype(np.float64) / self.unit - self.means[block]
      filling = _COLUMNS_AT_ONCE - values.shape[1]
      yield np.pad(values * self.factor, ((0, 0), (0, filling))).astype(dtype)


def _dtype_of(rows) -> np.dtype:
  wide = jnp.finfo(rows.dtype).bits >= 32
  return jax.dtypes.canonicalize_dtype(rows.dtype if wide else np.float32)


def _centred(tap: Any) -> _Centred:
  rows = np.asarray(tap)
  rows = rows.reshape(len(rows), -1)
  unit = float(np.ldexp(1.0, np.frexp(np.float64(np.abs(rows).max()))[1]))
  means, variance, size = np.empty(rows.shape[1]), 0.0, 0.0
  for start in range(0, rows.shape[1], _COLUMNS_AT_ONCE):
    block = slice(start, start + _COLUMNS_AT_ONCE)
    values = rows[:, block].astype(np.float64) / unit
    means[block] = values.mean(0)
    size += (values**2).sum() / len(rows)
    variance += ((values - means[block]) ** 2).sum() / len(rows)
  noise = (8 * np.finfo(_dtype_of(rows)).eps) ** 2 * size
  return _Centred(rows, unit, means, 0.0 if variance <= noise else variance**-0.5)


def _products_of_similarities(
  taps: Sequence[np.ndarray], batches: Sequence[slice], *, debiased: bool
) -> Float[np.ndarray, "taps taps"]:
  """Inner products of the centred similarity matrices of all pairs of taps.

  The result is the mean over batches, or of HSIC1 if `debiased`. Each tap is in units
  of its largest spread in a batch.
  """
  # NaN or infinity in a tap makes the entries of this tap NaN.
  with np.errstate(invalid="ignore"):
    products, spreads = [], []
    for batch in batches:
      centred = [_centred(tap[batch]) for tap in taps]
      products.append(_sum_of_blocks(centred, debiased=debiased))
      spreads.append([tap.spread for tap in centred])
    largest = np.max(spreads, axis=0)
    factors = np.square(spreads / np.where(largest == 0, 1, largest))
    scaled = np.stack(products) * factors[:, :, None] * factors[:, None, :]
    return scaled.mean(0)


def _sum_of_blocks(
  taps: Sequence[_Centred], *, debiased: bool
) -> Float[np.ndarray, "taps taps"]:
  """Sum in float64 of the products of blocks of rows of the matrices."""
  rows = len(taps[0].rows)
  total = np.zeros((len(taps), len(taps)))
  at_once = max(1, min(rows, _BYTES_AT_ONCE // (4 * rows * len(taps))))
  for start in range(0, rows, at_once):
    # The last block overlaps the previous one, so that all blocks have one shape and
    # the program compiles once.
    first = min(start, rows - at_once)
    block = slice(first, first + at_once)
    similarities = [_similarities(tap, block) for tap in taps]
    products = _products(similarities, np.int32(first) if debiased else None)
    total += np.asarray(products, np.float64)[start - first :].sum(0)
  return _unbiased(total, taps) if debiased else total / rows**2


def _unbiased(
  products: Float[np.ndarray, "taps taps"], taps: Sequence[_Centred]
) -> Float[np.ndarray, "taps taps"]:
  """HSIC1 from the products of matrices without their diagonals.

  As the rows of a tap are centred, each row of its matrix sums to 0 with the diagonal,
  and to minus the diagonal entry without it.
  """
  rows = len(taps[0].rows)
  diagonals = np.zeros((len(taps), rows))
  for sums, tap in zip(diagonals, taps, strict=True):
    for columns in tap.columns():
      sums += np.square(columns, dtype=np.float64).sum(1)
  totals = diagonals.sum(1)
  shared = 2 / (rows - 2) * diagonals @ diagonals.T
  found = products + np.outer(totals, totals) / ((rows - 1) * (rows - 2)) - shared
  # Such a matrix, constant or with a single different row, is 0 after centring, so what
  # is left is rounding noise.
  digits = np.array([np.finfo(_dtype_of(tap.rows)).eps for tap in taps])
  noise = 16 * digits * np.diagonal(products + shared)
  still = np.diagonal(found) <= noise
  return np.where(still[:, None] | still, 0, found) / (rows * (rows - 3))


def _similarities(tap: _Centred, block: slice) -> Float[Array, "block rows"]:
  total = jnp.zeros(())
  for columns in tap.columns():
    total = _add_products(total, columns[block], columns)
  return total


@jax.jit
def _add_products(total, rows, columns):
  return total.astype(rows.dtype) + float32.matmul(rows, columns.T)


@jax.jit
def _products(
  similarities: Sequence[Float[Array, "block rows"]], first: Int[Array, ""] | None
) -> Float[Array, "block taps taps"]:
  """Inner products of each row for all pairs of taps.

  Args:
    similarities: Some rows of the matrix of each tap.
    first: Position of the first of these rows if diagonals are left out, otherwise
      None.
  """
  stacked = jnp.stack(similarities, 1)
  if first is not None:
    block, _, rows = stacked.shape
    positions = first + jnp.arange(block, dtype=first.dtype)
    same = positions[:, None] == jnp.arange(rows, dtype=first.dtype)[None, :]
    stacked = jnp.where(same[:, None, :], 0, stacked)
  return float32.matmul(stacked, stacked.swapaxes(1, 2))


def _padded(name: str, tap: Any) -> Float[np.ndarray, "rows dim"]:
  """Flatten rows and pad the width to a power of two; zeros change no kernel."""
  checks.check_floating(name, tap)
  checks.check_rows(name, tap)
  rows = np.asarray(tap)
  rows = rows.reshape(len(rows), -1)
  width = 1 << (rows.shape[1] - 1).bit_length()
  return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _information(rows, labels, kernel, num_classes, block_size):
  return information.quadratic_mutual_information(
    rows, labels, num_classes, kernel=kernel, block_size=block_size
  )

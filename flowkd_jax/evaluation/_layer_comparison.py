"""Likeness of every layer of one network to every layer of another, as matrices."""

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
# Columns of a tap that are multiplied at a time: with a constant number the program is
# the same for all taps.
_COLUMNS_AT_ONCE = 256
_BYTES_AT_ONCE = 2**28
# HSIC1 divides by the number of rows less 3.
_LEAST_DEBIASED = 4


def cka_matrix(
  student: Taps,
  teacher: Taps,
  *,
  debiased: bool = False,
  batch_size: int | None = None,
) -> Float[np.ndarray, "student_taps teacher_taps"]:
  """Linear CKA between every student tap and every teacher tap (1 is alike).

  Kornblith et al. 2019, section 3, over all rows at once; 1 less `losses.linear_cka`,
  whose `debiased` is the one here. The biased CKA of unrelated taps grows with their
  widths over the number of rows, so it prefers wide taps where rows are few; the
  debiased CKA is 0 on average, and below 0 at times.

  With `batch_size`, the three estimates are averaged over batches before the ratio
  (Nguyen et al. 2021, Eq. 5): with `debiased=True` the result then does not depend on
  the batch size but for noise, and time grows with N and not with its square.

  With N rows, T taps of both networks together and W their widths' sum it takes
  `O(N^2 (W + T^2))` time and, beside the taps, memory for as many rows of the N x N
  matrices of all taps as fit 256 MiB. It is compiled once, whatever the widths.

  Args:
    student: Activations `[rows, ...]`, from input to output: a sequence of arrays or of
      `(name, array)` pairs. A mapping does not keep its order under `jax.jit`.
    teacher: Activations of the teacher on the same rows, likewise.
    debiased: Use the unbiased estimates HSIC1 of all three terms.
    batch_size: Most rows of a batch; batches are as good as equal, in the order of the
      rows. None takes all rows at once.

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
  # As in `losses.linear_cka` where all rows of a tap are alike.
  alignment[still[:, None] & still] = 1
  return np.clip(alignment[: len(students), len(students) :], -1, 1)


def _batches(rows: int, batch_size: int | None, *, debiased: bool) -> list[slice]:
  """Rows of each batch; all of one size or one row less."""
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
  """`|w_s[i] - w_t[j]|` between the information flows of two networks.

  The distances of which the paper's kappa takes the nearest (Passalis et al. 2020,
  section 3.1). Costs `information.quadratic_mutual_information` of each tap, one after
  the other. It is compiled once for all widths between two powers of two.

  Args:
    student: Activations `[rows, ...]`, from input to output: a sequence of arrays or of
      `(name, array)` pairs. A mapping does not keep its order under `jax.jit`.
    teacher: Activations of the teacher on the same rows, likewise.
    labels: Class of each row; rows with a negative label are left out.
    num_classes: Number of classes.
    kernel: Pairwise kernel, cosine by default.
    block_size: Rows evaluated at a time.

  Raises:
    TypeError: If a tap is not floating, the labels are not integers, or taps are a
      mapping.
    ValueError: If there are no taps or shapes disagree.
  """
  # Checked here: under `jit` a label that is no class could only give NaN.
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
  """Share of the units that have one value whatever the input.

  Args:
    activations: A tap on some examples; units are all entries of a row.
  """
  rows = np.asarray(activations).reshape(len(activations), -1)
  return float((rows == rows[:1]).all(axis=0).mean())


class _Centred(NamedTuple):
  """A tap on the host, with what brings its rows to mean 0 and spread 1.

  Attributes:
    rows: The rows, flattened.
    unit: A power of two by which the rows are divided first, so that no square
      overflows.
    means: Mean of each column, in units.
    factor: One by the root of the mean squared norm of the centred rows; 0 if all rows
      are alike but for rounding.
  """

  rows: Float[np.ndarray, "rows dim"]
  unit: float
  means: Float[np.ndarray, " dim"]
  factor: float

  @property
  def spread(self) -> float:
    return self.unit / self.factor if self.factor else 0.0

  def columns(self) -> Iterator[Float[np.ndarray, "rows columns"]]:
    """Centred columns, as many at a time as `_COLUMNS_AT_ONCE`, or zeros instead."""
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
  """Inner products of the centred matrices of similarities of all pairs of taps.

  The mean over the batches, each tap in units of its largest spread in a batch; of
  HSIC1 if debiased.
  """
  # A NaN or an infinity makes its tap's entries NaN.
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
  """Products of blocks of rows of the matrices, added in float64."""
  rows = len(taps[0].rows)
  total = np.zeros((len(taps), len(taps)))
  at_once = max(1, min(rows, _BYTES_AT_ONCE // (4 * rows * len(taps))))
  for start in range(0, rows, at_once):
    # The last block overlaps the one before it, so that all have one shape.
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

  The rows of a tap are centred, so that a row of its matrix sums to 0 with the
  diagonal, and to the negative of the diagonal without it.
  """
  rows = len(taps[0].rows)
  diagonals = np.zeros((len(taps), rows))
  for sums, tap in zip(diagonals, taps, strict=True):
    for columns in tap.columns():
      sums += np.square(columns, dtype=np.float64).sum(1)
  totals = diagonals.sum(1)
  shared = 2 / (rows - 2) * diagonals @ diagonals.T
  found = products + np.outer(totals, totals) / ((rows - 1) * (rows - 2)) - shared
  # A matrix that is constant, or has one row unlike the others, is 0 once centred.
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
  """For each row its inner products in all pairs of taps.

  Args:
    similarities: Some rows of the matrix of each tap.
    first: Position of the first of them, if the diagonals are left out.
  """
  stacked = jnp.stack(similarities, 1)
  if first is not None:
    block, _, rows = stacked.shape
    positions = first + jnp.arange(block, dtype=first.dtype)
    same = positions[:, None] == jnp.arange(rows, dtype=first.dtype)[None, :]
    stacked = jnp.where(same[:, None, :], 0, stacked)
  return float32.matmul(stacked, stacked.swapaxes(1, 2))


def _padded(name: str, tap: Any) -> Float[np.ndarray, "rows dim"]:
  """Flattened rows with zeros up to a power of two: no kernel sees them."""
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

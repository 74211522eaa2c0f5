"""Centred kernel alignment between student and teacher, as losses.

`1 - CKA` is half the squared distance between the two centred matrices of
similarities, each divided by its norm; computed like that it never turns negative and
keeps its digits near 0. Widths may differ.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import _checks
from flowkd_jax import _global_batch
from flowkd_jax import _pairs
from flowkd_jax import _precision
from flowkd_jax import information
from flowkd_jax.losses import _batch


def linear_cka(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """One minus the linear centred kernel alignment.

  `1 - |S'T|^2 / (|S'S| |T'T|)` with centred columns S and T (Kornblith et al. 2019,
  section 3). Between 0 and 1, whatever the batch size and the widths; but CKA of
  unrelated features falls with the number of rows per dimension, so compare batches
  of one size. Invariant to rotation, shift and scale of either side, and to
  permutation. If all rows of one side are alike the loss is 1, of both, 0; the
  gradient is 0 then.

  Costs O(N D^2) where both widths are below the global batch size, else O(N^2 D) with
  O(N block_size) memory. Differs from the many ports of the authors' code that
  multiply by an N x N centring matrix: the features are centred instead.

  Args:
    student: Student features; axes after the first are flattened.
    teacher: Teacher features, of any width.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split.
    block_size: Rows evaluated at a time; None for all at once.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, or an array is empty or has no feature axis.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> abs(float(linear_cka(3 * features + 1, features))) < 1e-6
    True

  References:
    Kornblith et al., "Similarity of neural network representations revisited",
    ICML 2019.
  """
  if block_size is not None:
    _checks.check_positive("block_size", block_size)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  columns = [_centred(side, batch.real) for side in batch.columns]
  rows = [_own_rows(side, batch, axis_name) for side in columns]
  if max(side.shape[1] for side in columns) < batch.real.shape[0]:
    return _alignment_of_features(rows, axis_name)

  def similarities(side, rows, positions):
    del positions
    return _precision.matmul(rows, columns[side].T)

  return _alignment_of_kernels(similarities, rows, batch, axis_name, block_size)


def rbf_cka(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  bandwidth: float = 1.0,
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """One minus the centred kernel alignment of Gaussian kernels.

  `1 - <K, L> / (|K| |L|)`, K and L the doubly centred matrices
  `exp(-|x_i - x_j|^2 / (2 w^2))` (Kornblith et al. 2019, sections 2.3 and 3). Between
  0 and 1, whatever the batch size and the widths. Invariant to rotation, shift and
  scale of either side, and to permutation; where all rows are alike, as `linear_cka`.

  Differs from the paper: `w` is `bandwidth` times the root mean squared distance
  between different rows, where the paper takes the median distance: this costs
  O(N D), has the same invariances and is differentiated through.

  Args:
    student: Student features; axes after the first are flattened.
    teacher: Teacher features, of any width.
    bandwidth: Width of the kernel in root mean squared distances; the larger, the
      nearer to `linear_cka`.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split.
    block_size: Rows evaluated at a time; memory is then O(batch x block_size).

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis, or
      `bandwidth` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> abs(float(rbf_cka(3 * features + 1, features))) < 1e-6
    True

  References:
    Kornblith et al., "Similarity of neural network representations revisited",
    ICML 2019.
  """
  _checks.check_positive("bandwidth", bandwidth)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  widths = [
    bandwidth**2 * _mean_squared_distance(side, batch.real) for side in batch.columns
  ]

  def similarities(side, rows, positions):
    pairs = _pairs.pair_geometry(rows, batch.columns[side], positions)
    # Less 1, which centring removes: wide kernels keep their digits.
    return jnp.expm1(-pairs.squared_distances / (2 * widths[side]))

  return _alignment_of_kernels(similarities, batch.rows, batch, axis_name, block_size)


def _alignment_of_features(rows, axis_name):
  student, teacher = rows

  def norm(left, right):
    products = _global_batch.global_sum(_precision.matmul(left.T, right), axis_name)
    return (products**2).sum()

  across = norm(student, teacher)
  sizes = [_pairs.safe_power(norm(side, side), 0.5) for side in rows]
  moving = (sizes[0] > 0) & (sizes[1] > 0)
  alignment = across / jnp.where(moving, sizes[0] * sizes[1], 1)
  still = jnp.where((sizes[0] > 0) != (sizes[1] > 0), 1, 0).astype(across.dtype)
  return jnp.where(moving, jnp.maximum(1 - alignment, 0), still)


def _alignment_of_kernels(similarities, rows, batch, axis_name, block_size):
  """`|K / |K| - L / |L||^2 / 2` of doubly centred matrices, in row blocks.

  `similarities(side, rows, positions)` gives rows of K (side 0) and of L (side 1).
  """
  count = jnp.maximum(batch.number, 1)

  def over_rows(function):
    terms = information.rows_in_blocks(function, block_size, *rows, batch.positions)
    return jnp.where(batch.real[batch.positions], terms, 0)

  def centred(side):
    def row_means(*block):
      values = similarities(side, block[side], block[2])
      return jnp.where(batch.real[None, :], values, 0).sum(1) / count

    means = _global_batch.gather_rows(over_rows(row_means), axis_name)
    mean = means.sum() / count

    def deviations(*block):
      values = similarities(side, block[side], block[2])
      values = values - means[block[2]][:, None] - means[None, :] + mean
      return jnp.where(batch.real[None, :], values, 0)

    squares = over_rows(lambda *block: (deviations(*block) ** 2).sum(1))
    norm = _pairs.safe_power(_global_batch.global_sum(squares.sum(), axis_name), 0.5)
    return deviations, norm, jnp.where(norm > 0, norm, 1)

  (student, student_norm, student_scale) = centred(0)
  (teacher, teacher_norm, teacher_scale) = centred(1)

  def row_gaps(*block):
    gaps = student(*block) / student_scale - teacher(*block) / teacher_scale
    return (gaps**2).sum(1)

  total = _global_batch.global_sum(over_rows(row_gaps).sum(), axis_name)
  still = (student_norm > 0) != (teacher_norm > 0)
  return total / 2 + jnp.where(still, 0.5, 0).astype(total.dtype)


def _own_rows(columns, batch, axis_name):
  return columns if axis_name is None else columns[batch.positions]


def _centred(columns, real):
  """Columns less their mean, in units of their spread; 0 if that is rounding."""
  centred, variance = _deviations(columns, real)
  scale = lax.stop_gradient(jnp.sqrt(jnp.where(variance > 0, variance, 1)))
  return jnp.where(variance > 0, centred / scale, 0)


def _mean_squared_distance(columns, real):
  _, variance = _deviations(columns, real)
  count = real.sum(dtype=columns.dtype)
  mean = 2 * variance * count / jnp.maximum(count - 1, 1)
  return jnp.where(mean > 0, mean, 1)


def _deviations(columns, real):
  """Columns less their mean, and the mean of their squared norms."""
  count = jnp.maximum(real.sum(dtype=columns.dtype), 1)
  valid = real[:, None]
  centred = jnp.where(valid, columns - columns.sum(0, keepdims=True) / count, 0)
  variance = (centred**2).sum() / count
  size = lax.stop_gradient((columns**2).sum() / count)
  noise = (8 * jnp.finfo(columns.dtype).eps) ** 2 * size
  return centred, jnp.where(variance > noise, variance, 0)

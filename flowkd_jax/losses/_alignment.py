"""Centred kernel alignment between student and teacher, as losses.

`1 - CKA` is half the squared distance between the two centred matrices of
similarities, each divided by its norm; computed like that it keeps its digits near 0.
Widths may differ. Where matrices of all pairs are needed, means are constants to the
gradient, which changes nothing in it, but second derivatives are refused.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import information
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks
from flowkd_jax.losses import _batch


@meshes.on_any_mesh
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

  With N rows in the global batch and widths of D together, it costs O(N D^2) time and
  O(N D + D^2) memory where both widths are below N, else O(N^2 D) time and
  O(N (D + block_size)) memory. Differs from the many ports of the authors' code that
  multiply by an N x N centring matrix: the features are centred instead.

  Args:
    student: Student features; axes after the first are flattened.
    teacher: Teacher features, of any width.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split.
    block_size: Rows evaluated at a time; None chooses.

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
    checks.check_count("block_size", block_size)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  columns = [_centred(side, batch) for side in batch.columns]
  rows = [_own_rows(side, batch, axis_name) for side in columns]
  if max(side.shape[1] for side in columns) < batch.real.shape[0]:
    return _alignment_of_features(rows, axis_name)

  def similarities(rows, columns, positions):
    del positions
    return float32.matmul(rows, columns)

  columns = [side.T for side in columns]
  return _alignment_of_kernels(
    similarities, rows, columns, batch, mask, axis_name, block_size
  )


@meshes.on_any_mesh
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
    block_size: Rows evaluated at a time; None chooses.

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
  checks.check_positive("bandwidth", bandwidth)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  spreads = [_mean_squared_distance(side, batch) for side in batch.columns]

  def similarities(rows, columns, positions):
    columns, spread, alike, bandwidth = columns
    squared = pairwise.pair_geometry(rows, columns, positions).squared_distances
    # Alignment ignores a factor and, through centring, a constant. So chosen, entries
    # scatter around 0, and wide kernels keep their digits.
    typical = jnp.minimum(1 / (2 * lax.stop_gradient(bandwidth) ** 2), 1)
    shift = jnp.where(alike, 0, typical)
    return jnp.expm1(shift - squared / (2 * bandwidth**2 * spread))

  rows, columns = _batch.pair_sides(batch, block_size)
  width = jnp.asarray(float32.like(bandwidth, batch.rows[0]), batch.rows[0].dtype)
  columns = [
    (side, jnp.where(spread == 0, 1, spread), spread == 0, width)
    for side, spread in zip(columns, spreads, strict=True)
  ]
  return _alignment_of_kernels(
    similarities, rows, columns, batch, mask, axis_name, block_size
  )


def _alignment_of_features(rows, axis_name):
  student, teacher = rows

  def norm(left, right):
    products = parallel.global_sum(float32.matmul(left.T, right), axis_name)
    return (products**2).sum()

  across = norm(student, teacher)
  sizes = [pairwise.safe_power(norm(side, side), 0.5) for side in rows]
  still = [size == 0 for size in sizes]
  alignment = across / jnp.where(still[0] | still[1], 1, sizes[0] * sizes[1])
  loss = 1 - alignment
  loss = jnp.where(loss < 0, 0, loss)  # not a maximum, which may lose a NaN
  loss = jnp.where(still[0] != still[1], 1, loss)
  return jnp.where(still[0] & still[1], 0, loss)


def _alignment_of_kernels(
  similarities, rows, columns, batch, mask, axis_name, block_size
):
  """`|K / |K| - L / |L||^2 / 2` of doubly centred matrices, in two passes over them.

  `similarities(rows, columns, positions)` gives rows of K or L. Means and norms are
  those of a first pass, and constants: the derivative in a mean is 0, as all rows of
  the centred matrices sum to 0, and that in the norms is in the terms of the second.
  """
  rows, columns = _differentiable_once((tuple(rows), tuple(columns)))
  real = None if mask is None else batch.real
  means, factors, loss = _moments(
    similarities, *lax.stop_gradient((rows, columns)), batch, axis_name, block_size
  )

  def row_terms(shared, block):
    columns, means, factors, loss, real = shared
    rows, own_means, positions = block
    student, teacher = (
      factor * (similarities(*side, positions) - own[:, None] - mean[None, :])
      for *side, own, mean, factor in zip(
        rows, columns, own_means, means, factors, strict=True
      )
    )
    terms = (student - teacher) ** 2 - loss * (student**2 + teacher**2)
    return (terms if real is None else jnp.where(real[None, :], terms, 0)).sum(1)

  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (columns, means, factors, loss, real),
    (rows, tuple(side[batch.positions] for side in means), batch.positions),
    batch.real[batch.positions].astype(loss.dtype),
  )
  return parallel.global_sum(total, axis_name) / 2 + loss


def _moments(similarities, rows, columns, batch, axis_name, block_size):
  """Means to subtract from rows and columns of K and L, inverse norms, and the loss."""

  def row_sums(rows, positions):
    student, teacher = (
      jnp.where(batch.real[None, :], similarities(*side, positions), 0)
      for side in zip(rows, columns, strict=True)
    )
    products = student, teacher, student**2, teacher**2, student * teacher
    return jnp.stack([product.sum(1) for product in products], 1)

  sums = information.rows_in_blocks(row_sums, block_size, rows, batch.positions)
  sums = jnp.where(batch.real[batch.positions][:, None], sums, 0)
  count = _at_least_one(batch.number)
  own_means = sums[:, :2] / count
  means = tuple(parallel.gather_rows(own_means, axis_name).T)
  totals = parallel.global_sum(sums.sum(0), axis_name)
  # From sums over the devices, so that the result is known to be the same on all.
  products = float32.matmul(own_means.T, own_means)
  products = parallel.global_sum(products, axis_name)
  grand = totals[:2] / count**2

  def centred(total, one, other):
    shared = 2 * products[one, other] - count * grand[one] * grand[other]
    return total - count * shared

  squares = centred(totals[2], 0, 0), centred(totals[3], 1, 1)
  factors = tuple(
    pairwise.safe_power(jnp.maximum(square, 0), -0.5) for square in squares
  )
  loss = 1 - centred(totals[4], 0, 1) * factors[0] * factors[1]
  loss = jnp.where((squares[0] <= 0) & (squares[1] <= 0), 0, loss)
  halves = tuple(mean - each / 2 for mean, each in zip(means, grand, strict=True))
  return halves, factors, loss


def _differentiable_once(tree):
  def once(leaf):
    return _once(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(once, tree)


@jax.custom_jvp
def _once(array):
  """The array; its derivative has none."""
  return array


@jax.custom_jvp
def _never(array):
  return array


@_once.defjvp
def _(primals, tangents):
  return _never(*primals), *tangents


@_never.defjvp
def _(primals, tangents):
  del primals, tangents
  raise TypeError(
    "this alignment has first derivatives only: second ones would miss how its means "
    "and norms change"
  )


def _own_rows(columns, batch, axis_name):
  return columns if axis_name is None else columns[batch.positions]


def _centred(columns, batch):
  """Columns less their mean, in units of their spread; 0 if that is rounding."""
  centred, variance = _deviations(columns, batch)
  scale = lax.stop_gradient(jnp.sqrt(jnp.where(variance == 0, 1, variance)))
  return jnp.where(variance == 0, 0, centred / scale)


def _mean_squared_distance(columns, batch):
  """Over pairs of different rows, in squared units of `pairwise.unit_of`."""
  _, variance = _deviations(columns, batch)
  mean = 2 * variance * batch.number / _at_least_one(batch.number - 1)
  return jnp.where(mean == 0, 1, mean)


def _at_least_one(count):
  return jnp.where(count < 1, 1, count)


def _deviations(columns, batch):
  """Columns less their mean, and the mean of their squared norms, in units."""
  columns = columns / pairwise.unit_of(columns)
  count = _at_least_one(batch.number)
  valid = batch.real[:, None]
  centred = jnp.where(valid, columns - columns.sum(0, keepdims=True) / count, 0)
  variance = (centred**2).sum() / count
  size = lax.stop_gradient((columns**2).sum() / count)
  noise = (8 * jnp.finfo(columns.dtype).eps) ** 2 * size
  return centred, jnp.where(variance <= noise, 0, variance)

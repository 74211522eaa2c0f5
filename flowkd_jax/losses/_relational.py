"""Losses that match similarities between the rows of a batch.

These are losses of the whole batch: do not `vmap` over examples, and pass `axis_name`
under data parallelism. Widths of student and teacher may differ.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks
from flowkd_jax.losses import _batch


@meshes.on_any_mesh
def similarity_preserving(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  reduction: str = "rows",
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Similarity-preserving distillation: `mean_i |g^t_i - g^s_i|^2`.

  `g_i` is row i of the matrix of inner products `Q Q'`, divided by its norm after the
  product (Tung and Mori 2019). The loss is between 0 and 4, whatever the batch size and
  the widths. It is invariant to rotation of either side, to one scale for all rows and
  to permutation of the rows, but neither to the scale of each row nor to a shift.

  Differs from the paper by the reduction, a mean over rows of a sum over columns. The
  paper divides by the square of the batch size (`reduction="matrix"`), so its weight
  (3000) has to grow with the batch size. Some ports normalise before the product.
  torchdistill divides rows by their L1 norm, which is a different and much smaller
  loss.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    reduction: "rows" is the mean over rows of the sum over columns. "matrix" is the
      mean over all pairs, as in the paper.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of rows evaluated at a time, also in the backward pass. Memory is
      O(N (D + block_size)) for N rows, where D is the sum of both widths. If None, a
      fast size is chosen.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      or `reduction` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> float(similarity_preserving(2 * features, features))
    0.0

  References:
    Tung and Mori, "Similarity-preserving knowledge distillation", ICCV 2019.
  """
  checks.check_choice("reduction", reduction, ("rows", "matrix"))
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  # A row of products is divided by its norm, so the norm of the feature row cancels.
  # With unit rows no product overflows.
  rows = [kernels.unit_rows(side) for side in batch.rows]
  columns = [_scaled(side).T for side in batch.columns]

  def row_terms(columns, rows):
    student, teacher = (
      products * pairwise.safe_power((products**2).sum(1, keepdims=True), -0.5)
      for products in map(float32.matmul, rows, columns)
    )
    return ((student - teacher) ** 2).sum(1)

  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    columns,
    rows,
    parallel.mean_weights(mask, axis_name, *batch.rows),
  )
  loss = parallel.global_sum(total, axis_name)
  return loss / jnp.maximum(batch.number, 1) if reduction == "matrix" else loss


@meshes.on_any_mesh
def correlation_congruence(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  gamma: float = 0.4,
  order: int = 2,
  reduction: str = "mean",
  authors: bool = False,
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Correlation congruence: squared differences of an expanded Gaussian kernel.

  `mean_{i != j} (k^s_ij - k^t_ij)^2` with the Taylor expansion of the Gaussian kernel
  of unit rows, `k_ij = exp(-2 gamma) sum_{p <= order} (2 gamma)^p / p! cos_ij^p` (Peng
  et al. 2019). The loss depends neither on the batch size nor on the widths. It is
  invariant to rotation of either side, to the scale of each row and to permutation of
  the rows, but not to a shift.

  Differs from the paper: a row is not paired with itself, which makes the loss larger
  by the factor `batch / (batch - 1)`. `reduction="matrix"` counts these pairs.

  `authors=True` is a different loss, `mean_i sum_c |s - t|_ic |s - t|_{i+1,c}`, a
  product over consecutive rows of the batch. It is the code that the authors gave to
  RepDistiller and that several ports copied. It needs equal widths, grows with the
  width and depends on the order of the rows. Use it only to reproduce published
  numbers.

  torchdistill has the kernel of the paper without unit rows. Its loss is the norm of
  the difference of the two matrices, which is not squared, divided by the square of the
  batch size.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    gamma: Factor in the exponent of the Gaussian kernel, `1 / (2 bandwidth^2)`.
    order: Highest power of the expansion.
    reduction: "mean" is the mean over pairs of different rows. "rows" is the mean over
      rows of the sum over all other rows. "matrix" is the mean over all pairs.
    authors: Reproduce the published code. `gamma`, `order` and `reduction` are ignored.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      `gamma` or `order` is not positive, `reduction` is unknown, or widths differ with
      `authors=True`.

  Example:
    >>> import jax.numpy as jnp
    >>> float(correlation_congruence(2 * jnp.eye(4), jnp.eye(4)))
    0.0

  References:
    Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019.
  """
  checks.check_positive("gamma", gamma)
  checks.check_count("order", order)
  checks.check_choice("reduction", reduction, _batch.PAIR_REDUCTIONS)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  if authors:
    return _neighbour_products(batch, mask, axis_name)
  dtype = batch.rows[0].dtype
  coefficients = jnp.stack(
    [jnp.asarray(each, dtype) for each in _gaussian_coefficients(gamma, order)]
  )

  def row_terms(shared, block):
    columns, real, coefficients = shared
    points, positions = block
    student, teacher = (
      pairwise.pair_geometry(*side, positions)
      for side in zip(points, columns, strict=True)
    )
    gaps = student.cosine_gaps, teacher.cosine_gaps
    expansions = [_polynomial(side, coefficients) for side in gaps]
    valid = pairwise.valid_pairs(student.same, real)
    return jnp.where(valid, (expansions[0] - expansions[1]) ** 2, 0).sum(1)

  points, columns = _batch.pair_sides(batch, block_size)
  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (columns, None if mask is None else batch.real, coefficients),
    (points, batch.positions),
    parallel.mean_weights(mask, axis_name, *batch.rows),
  )
  loss = parallel.global_sum(total, axis_name)
  count = batch.number
  divisors = {"mean": count - 1, "rows": jnp.ones_like(count), "matrix": count}
  return loss / jnp.maximum(divisors[reduction], 1)


def _scaled(columns):
  """Rows in units of the batch, so that no product overflows."""
  return columns / pairwise.unit_of(columns)


def _gaussian_coefficients(gamma, order):
  """Coefficients of the expansion in powers 1 to `order` of `(1 - cos) / 2`.

  The constant is left out, because it cancels in the difference of student and teacher.
  Without it, small angles keep their digits.
  """
  # cos^p = (1 - 2 g)^p with g = (1 - cos) / 2, by the binomial theorem.
  exp = jnp.exp if isinstance(gamma, jax.Array) else math.exp
  taylor = [
    exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)
  ]
  return [
    (-2) ** m * sum(math.comb(p, m) * taylor[p] for p in range(m, order + 1))
    for m in range(1, order + 1)
  ]


def _polynomial(gaps, coefficients):
  value = jnp.zeros_like(gaps)
  for coefficient in coefficients[::-1]:
    value = gaps * (value + coefficient)
  return value


def _neighbour_products(batch, mask, axis_name):
  if batch.rows[0].shape != batch.rows[1].shape:
    raise ValueError(
      "student: expected the teacher's width with authors=True, got "
      f"{batch.rows[0].shape[1]} and {batch.rows[1].shape[1]}; authors=False "
      "compares different widths"
    )
  size = batch.real.shape[0]
  places = jnp.where(batch.real, jnp.arange(size, dtype=jnp.int32), size)
  # Index of the next real row after each row, or `size` if there is none. Masked rows
  # are skipped, so padding does not change the pairs.
  following = jnp.append(lax.cummin(places, reverse=True)[1:], jnp.int32(size))
  following = following[batch.positions]
  everyone = jnp.abs(batch.columns[0] - batch.columns[1])
  products = jnp.abs(batch.rows[0] - batch.rows[1]) * everyone[following % size]
  terms = jnp.where(following < size, products.sum(1), 0)
  loss = parallel.global_mean(terms, mask, axis_name)
  count = batch.number
  return loss * count / jnp.maximum(count - 1, 1)

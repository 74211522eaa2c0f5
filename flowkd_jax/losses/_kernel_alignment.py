"""Alignment of two matrices of similarities, from features or in blocks of rows.

The debiased alignment of n rows leaves out the diagonals. Let `k_i` be the sum of row i
of a matrix K without its diagonal, and `S` the sum of all `k_i`. The off-diagonal
entries of the matrix

    K_ij - (k_i + k_j) / (n - 2) + S / ((n - 1) (n - 2))

sum to 0 in each row. The inner product of two such matrices is n (n - 3) times the
unbiased estimate HSIC1 (Song et al. 2012, Eq. 5; Szekely and Rizzo 2014, section 2).
HSIC1 of a matrix with itself is thus a squared norm, which only rounding can make
negative.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax import information
from flowkd_jax import parallel
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks
from flowkd_jax.losses import _batch

# The unbiased estimate divides by n - 3.
LEAST_ROWS = 4
# Bound of the rounding error of a sum of squares, in units of the machine epsilon.
_ROUNDING = 16


def check_debiased_rows(rows: int) -> None:
  """Raises ValueError if there are too few rows for the debiased alignment."""
  if rows < LEAST_ROWS:
    raise ValueError(
      f"debiased: expected at least {LEAST_ROWS} rows in the global batch (or patches "
      f"in an image), got {rows}; use more rows, or debiased=False"
    )


def at_least_one(count: Float[Array, "..."]) -> Float[Array, "..."]:
  """The count, or 1 if it is smaller. NaN stays NaN."""
  return jnp.where(count < 1, 1, count)


def alignment_of_features(
  rows: Sequence[Float[Array, "batch dim"]],
  number: Float[Array, ""],
  axis_name: str | None,
  *,
  debiased: bool,
) -> Float[Array, ""]:
  """One minus the linear alignment, from products of features `[dim, dim]`.

  This is the cheaper form for widths below the batch size.

  Args:
    rows: Centred rows of student and teacher on this device, with masked rows zero.
    number: Number of real rows in the global batch.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    debiased: Leave out the diagonals.
  """
  student, teacher = rows
  squares = [(side**2).sum(1) for side in rows]
  sums = [parallel.global_sum(each.sum(), axis_name) for each in squares]
  noise = _ROUNDING * jnp.finfo(student.dtype).eps

  def norm(left, right):
    products = float32.matmul(rows[left].T, rows[right])
    products = (parallel.global_sum(products, axis_name) ** 2).sum()
    if not debiased:
      return products, jnp.zeros_like(products)
    # HSIC1 times n (n - 3) of centred features, written with the sums of row squares,
    # which are the diagonals. The second result bounds the rounding error of the first.
    diagonals = parallel.global_sum((squares[left] * squares[right]).sum(), axis_name)
    fewer = at_least_one(number - 2)
    diagonals = diagonals * (number / fewer)
    means = sums[left] * sums[right] / (fewer * at_least_one(number - 1))
    return products - diagonals + means, noise * (products + diagonals + means)

  across, _ = norm(0, 1)
  norms = [norm(0, 0), norm(1, 1)]
  still = [square <= rounding for square, rounding in norms]
  if debiased:
    still = [each | (number < LEAST_ROWS) for each in still]
  sizes = [
    pairwise.safe_power(jnp.where(each, 0, square), 0.5)
    for each, (square, _) in zip(still, norms, strict=True)
  ]
  alignment = across / jnp.where(still[0] | still[1], 1, sizes[0] * sizes[1])
  loss = 1 - alignment
  loss = jnp.where(loss < 0, 0, loss)  # `maximum` may lose a NaN
  loss = jnp.where(still[0] != still[1], 1, loss)
  return jnp.where(still[0] & still[1], 0, loss)


def alignment_of_kernels(
  similarities: Callable[..., Float[Array, "rows global"]],
  rows: Sequence[Any],
  columns: Sequence[Any],
  batch: _batch.Batch,
  mask: _batch.Mask,
  axis_name: str | None,
  block_size: int | None,
  *,
  debiased: bool,
) -> Float[Array, ""]:
  """One minus the alignment, `|K / |K| - L / |L||^2 / 2` of centred matrices K and L.

  Two passes over the matrices are made in blocks of rows. The first computes means and
  norms, which are constants in the second. The derivative with respect to a mean is 0,
  because all rows of the centred matrices sum to 0. The derivative with respect to the
  norms is part of the terms of the second pass.

  Args:
    similarities: Function `(rows, columns, positions)` that returns rows of K or L.
    rows: Student and teacher rows on this device, in the form that `similarities`
      takes.
    columns: Student and teacher rows of the global batch, in the form that
      `similarities` takes.
    batch: Rows of both sides, and masks and counts of the global batch.
    mask: True for real rows of this device, or None.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.
    debiased: Leave out the diagonals, also when the matrices are centred.
  """
  rows, columns = _differentiable_once((tuple(rows), tuple(columns)))
  real = None if mask is None else batch.real
  means, factors, loss = _moments(
    similarities,
    *lax.stop_gradient((rows, columns)),
    batch,
    axis_name,
    block_size,
    debiased=debiased,
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
    # These terms sum to 0 but for rounding, and the value comes from the first pass.
    # Their derivative is that of the loss: the second part accounts for the norms.
    terms = (student - teacher) ** 2 - loss * (student**2 + teacher**2)
    valid = _valid(positions, real, batch.real.shape[0], debiased=debiased)
    return (terms if valid is None else jnp.where(valid, terms, 0)).sum(1)

  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (columns, means, factors, loss, real),
    (rows, tuple(side[batch.positions] for side in means), batch.positions),
    batch.real[batch.positions].astype(loss.dtype),
  )
  return parallel.global_sum(total, axis_name) / 2 + loss


def _valid(
  positions: Int[Array, " rows"],
  real: Bool[Array, " global"] | None,
  size: int,
  *,
  debiased: bool,
) -> Bool[Array, "rows global"] | None:
  """Mask of the entries that count, or None if all do."""
  if not debiased:
    return None if real is None else real[None, :]
  same = positions[:, None] == jnp.arange(size, dtype=positions.dtype)[None, :]
  return pairwise.valid_pairs(same, real)


def _moments(similarities, rows, columns, batch, axis_name, block_size, *, debiased):
  """Means to subtract from rows and columns of K and L, inverse norms, and the loss.

  All are functions of five sums per row: those of K, L, K^2, L^2 and K L.
  """

  def row_sums(rows, positions):
    valid = _valid(positions, batch.real, batch.real.shape[0], debiased=debiased)
    valid = batch.real[None, :] if valid is None else valid
    student, teacher = (
      jnp.where(valid, similarities(*side, positions), 0)
      for side in zip(rows, columns, strict=True)
    )
    products = student, teacher, student**2, teacher**2, student * teacher
    return jnp.stack([product.sum(1) for product in products], 1)

  sums = information.rows_in_blocks(row_sums, block_size, rows, batch.positions)
  sums = jnp.where(batch.real[batch.positions][:, None], sums, 0)
  number = batch.number
  # `row_divisor` divides the sum of a row, and `divisor` the sum of all entries, as in
  # the equation at the head of this module.
  row_divisor = at_least_one(number - 2 if debiased else number)
  divisor = row_divisor * at_least_one(number - 1 if debiased else number)
  own_means = sums[:, :2] / row_divisor
  means = tuple(parallel.gather_rows(own_means, axis_name).T)
  totals = parallel.global_sum(sums.sum(0), axis_name)
  # Computed from this device's rows and summed over devices, and not from the gathered
  # means: in `shard_map` JAX then knows that all devices have the same result.
  products = float32.matmul(own_means.T, own_means)
  products = parallel.global_sum(products, axis_name)
  grand = totals[:2] / divisor

  def centred(total, one, other):
    shared = 2 * row_divisor * products[one, other]
    return total - shared + divisor * grand[one] * grand[other]

  squares = centred(totals[2], 0, 0), centred(totals[3], 1, 1)
  if debiased:
    # A matrix that is constant off the diagonal, or constant but for one row and its
    # column, is 0 once it is centred. Its norm is then rounding noise.
    noise = _ROUNDING * jnp.finfo(totals.dtype).eps
    squares = tuple(
      jnp.where((square <= noise * total) | (number < LEAST_ROWS), 0, square)
      for square, total in zip(squares, totals[2:4], strict=True)
    )
  factors = tuple(
    pairwise.safe_power(jnp.maximum(square, 0), -0.5) for square in squares
  )
  loss = 1 - centred(totals[4], 0, 1) * factors[0] * factors[1]
  loss = jnp.where((squares[0] <= 0) & (squares[1] <= 0), 0, loss)
  # `K_ij - mean_i - mean_j + grand`: each of the two means takes half of the last term.
  halves = tuple(mean - each / 2 for mean, each in zip(means, grand, strict=True))
  return halves, factors, loss


def _differentiable_once(tree):
  def once(leaf):
    return _once(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(once, tree)


@jax.custom_jvp
def _once(array):
  """The array itself. Its derivative is the identity, which has no derivative."""
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
    "linear_cka, rbf_cka: expected first derivatives only, got a second derivative; it "
    "would be wrong, because means and norms are constants to the first"
  )

"""Geometry of all pairs of rows: distances and cosines from one inner product.

Rows are scaled to norm one and centred. One matrix of their inner products gives both
the squared distances and the cosines. Scaling keeps the digits of rows that are much
smaller than the others. Centring keeps the digits of differences when the rows have a
large common mean. With `x_i = s_i v_i` and `e_ij = |v_i - v_j|^2`:

    |x_i - x_j|^2 = s_i s_j e_ij + (s_i - s_j)(s_i |v_i|^2 - s_j |v_j|^2)
    1 - cos_ij    = e_ij / 2                  where |v_i| = |v_j| = 1

A zero row is scaled by a constant, so the gradient of a distance is exact there too.

Distances and norms are in units of `unit_of(columns)`, a power of two. Nothing
overflows or underflows, whatever the scale of the features. All pairs of a row with NaN
or infinity are NaN: every comparison here is written so that NaN passes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import float32
from flowkd_jax._numerics import row_blocks


class Points(NamedTuple):
  """Rows prepared for `pair_geometry`, with the O(N D) work that all blocks share.

  Attributes:
    vectors: Rows divided by their scales, minus a common centre.
    squares: Squared norms of `vectors`.
    scales: Norms of the rows in units of the batch; a constant for a zero row.
    norms: Norms of the rows in units of the batch, as `squared norm / scale`.
    zero: True for zero rows.
  """

  vectors: Float[Array, "n dim"]
  squares: Float[Array, " n"]
  scales: Float[Array, " n"]
  norms: Float[Array, " n"]
  zero: Bool[Array, " n"]


class Columns(NamedTuple):
  """Columns of a matrix of pairs, with `factors = -2 vectors'` and fields of `Points`.

  In this layout neither the product nor its gradient needs a transposed copy.
  """

  factors: Float[Array, "dim m"]
  squares: Float[Array, " m"]
  scales: Float[Array, " m"]
  norms: Float[Array, " m"]
  zero: Bool[Array, " m"]


class Means(NamedTuple):
  """Means over the columns for each row. They are constants to the gradient.

  Attributes:
    cosine_gaps: Mean of `Pairs.cosine_gaps`, up to rounding.
    squared_distances: Mean of `Pairs.squared_distances`, up to rounding.
  """

  cosine_gaps: Float[Array, " n"]
  squared_distances: Float[Array, " n"]


class Pairs(NamedTuple):
  """Geometry of n rows against m columns.

  Attributes:
    squared_distances: `|a - b|^2`, in squared units of the batch. It is exactly 0 for
      a row with itself, and for rows whose difference is below the rounding error.
    cosine_gaps: `(1 - cos) / 2`, from 0 to 1 (rounding may exceed 1). It is 1/2 if
      either vector is zero.
    norm_products: `|a| |b|`, in squared units of the batch.
    norm_sums: `|a| + |b|`, in units of the batch.
    same: True for pairs of a row with itself.
  """

  squared_distances: Float[Array, "n m"]
  cosine_gaps: Float[Array, "n m"]
  norm_products: Float[Array, "n m"]
  norm_sums: Float[Array, "n m"]
  same: Bool[Array, "n m"]


class Similarities(NamedTuple):
  """Similarities that cannot underflow, without logarithms.

  Attributes:
    values: The similarities K, to relative accuracy.
    factors: `1 / C`, where C is a typical similarity of the row.
    excesses: `K / C - 1`. If all similarities of a row are nearly equal, the excesses
      keep the digits of their differences.
    coordinates: The variable of which K is a function, such as a distance.
    slopes: Derivative of `log K` with respect to the coordinates.
  """

  values: Float[Array, "n m"]
  factors: Float[Array, "n 1"]
  excesses: Float[Array, "n m"]
  coordinates: Float[Array, "n m"]
  slopes: Float[Array, "n m"]


def pair_points(rows: Float[Array, "n dim"], columns: Float[Array, "m dim"]) -> Points:
  """Prepares rows for `pair_geometry`.

  Args:
    rows: Rows of a batch, all or some.
    columns: All rows of the batch. They set the unit, the centre and the scale of zero
      rows, so all calls for one batch must get the same columns.
  """
  unit = unit_of(columns)
  # The centre and the scale of zero rows cancel in every result, so their gradients are
  # zero and need not be computed.
  powers, column_squares = _row_squares(lax.stop_gradient(columns), unit)
  column_roots = jnp.sqrt(column_squares)
  mean = (column_roots * (powers / unit)).mean()
  constant = jnp.where(mean == 0, 1, mean)
  # The centre is the mean direction: each row weighs the same, whatever its norm.
  column_scales = jnp.where(column_squares == 0, 1, column_roots) * powers
  weights = 1 / column_scales / columns.shape[0]
  centre = lax.stop_gradient(float32.matmul(weights[None, :], columns))
  powers, squares = _row_squares(rows, unit)
  zero = squares == 0
  # The `where` is inside the root, as the root has an infinite derivative at 0.
  roots = jnp.sqrt(jnp.where(zero, constant**2, squares))
  vectors = (rows * (1 / powers)[:, None]) * (1 / roots)[:, None] - centre
  relative = powers / unit
  return Points(
    vectors, (vectors**2).sum(1), roots * relative, squares / roots * relative, zero
  )


def unit_of(columns: Float[Array, "m dim"]) -> Float[Array, ""]:
  """Unit of distances in a batch: the power of two below its largest entry."""
  return float32.power_of_two(float32.largest_entries(columns).max())


def _row_squares(rows, unit):
  """A power of two for each row, and the squared norm of the row in this unit."""
  # In one unit for all rows, the squares of a row of 1e-30 beside one of 1 would be 0.
  largest = float32.largest_entries(rows)
  powers = jnp.where(largest == 0, unit, float32.power_of_two(largest))
  return powers, ((rows * (1 / powers)[:, None]) ** 2).sum(1)


def pair_columns(points: Points) -> Columns:
  """Converts points to columns for `pair_geometry`."""
  return Columns(-2 * points.vectors.T, *points[1:])


def rows_and_columns(
  rows: Float[Array, "n dim"],
  columns: Float[Array, "m dim"],
  block_size: int | None,
) -> tuple[Points, Columns | Points]:
  """Prepares the arguments of `pair_geometry` for blocks of a given size.

  Args:
    rows: The rows of this device. If these are all rows of the batch, pass the same
      object as `columns`.
    columns: The rows of the whole batch.
    block_size: Number of rows in a block, chosen automatically if None.
  """
  points = pair_points(rows, columns)
  if rows is not columns:
    return points, pair_columns(pair_points(columns, columns))
  # One block of all rows: `pair_geometry` sees that both are one object and uses the
  # symmetric product `gram`, which has half the work in the backward pass.
  if row_blocks.one_block(rows.shape[0], block_size):
    return points, points
  return points, pair_columns(points)


def pair_means(
  rows: Points, columns: Columns | Points, real: Bool[Array, " m"] | None
) -> Means:
  """Mean geometry of each row against the real columns, in O(N D).

  The means include the row itself, and zero rows count as rows of the mean direction.
  This is accurate enough: the means are reference points from which differences are
  measured, not results.
  """
  rows, columns = lax.stop_gradient((rows, columns))
  ones = jnp.ones_like(columns.squares)
  shares = ones if real is None else real.astype(ones.dtype)
  shares = shares / jnp.maximum(shares.sum(), 1)
  scaled = shares * columns.scales
  # The mean of the equations at the head of this module over j. Each term is a product
  # of a number of row i and a mean over the columns, so no matrix of pairs is needed.
  weights = jnp.stack([shares, scaled, shares * columns.norms])
  products = float32.matmul(_doubled_products(weights[:2], columns), rows.vectors.T)
  others = float32.matmul(weights, jnp.stack([ones, columns.squares, columns.norms], 1))
  (one, square, norm), (scale, scaled_square, scaled_norm), _ = others
  gaps = one * rows.squares + square + products[0]
  squared = rows.scales * (scale * rows.squares + scaled_square + products[1])
  squared += rows.norms * (rows.scales - scale) - rows.scales * norm + scaled_norm
  return Means(jnp.where(rows.zero, 0.5, gaps / 4), jnp.maximum(squared, 0))


def _doubled_products(weights, columns):
  """The product `-2 weights @ vectors`, in the layout that the columns have."""
  if isinstance(columns, Columns):
    return float32.matmul(weights, columns.factors.T)
  return -2 * float32.matmul(weights, columns.vectors)


def pair_geometry(
  rows: Points, columns: Columns | Points, positions: Int[Array, " n"]
) -> Pairs:
  """Geometry of some rows of a batch against the whole batch.

  Args:
    rows: Rows of the batch, all or some.
    columns: All rows of the batch. If `rows` are all of them, pass the same object,
      which halves the matrix products of the backward pass.
    positions: Index of each row within `columns`.
  """
  if isinstance(columns, Columns):
    doubled = float32.matmul(rows.vectors, columns.factors)
  else:
    doubled = -2 * gram(columns.vectors)
  everyone = jnp.arange(columns.squares.shape[0], dtype=positions.dtype)
  same = positions[:, None] == everyone[None, :]
  sums = rows.squares[:, None] + columns.squares[None, :]
  gaps = _clean(sums, doubled, same)
  cosine_gaps = jnp.where(rows.zero[:, None] | columns.zero[None, :], 0.5, gaps / 4)
  return Pairs(
    _squared_distances(gaps, rows, columns),
    jnp.where(same, 0, cosine_gaps),
    rows.norms[:, None] * columns.norms[None, :],
    rows.norms[:, None] + columns.norms[None, :],
    same,
  )


def valid_pairs(
  same: Bool[Array, "rows columns"],
  real: Bool[Array, " columns"] | None,
  *,
  self_pairs: bool = False,
) -> Bool[Array, "rows columns"]:
  """Mask of the pairs to use.

  Args:
    same: True for pairs of a row with itself.
    real: True for columns that are not masked, or None if all are real.
    self_pairs: Include the pairs of a row with itself.
  """
  valid = jnp.ones_like(same) if self_pairs else ~same
  return valid if real is None else valid & real[None, :]


@jax.custom_jvp
def gram(rows: Float[Array, "n dim"]) -> Float[Array, "n n"]:
  """Inner products of all rows, with one matrix product in the backward pass."""
  return float32.matmul(rows, rows.T)


@gram.defjvp
def _gram_jvp(primals, tangents):
  (rows,), (tangent,) = primals, tangents
  # `tangent rows' + rows tangent'` are two products. The second is the transpose of the
  # first, which autodiff does not know.
  half = float32.matmul(tangent, rows.T)
  return gram(rows), half + half.T


def safe_power(
  base: Float[Array, "..."], exponent: float | Float[Array, ""]
) -> Float[Array, "..."]:
  """Power `base ** exponent` for `base >= 0`, with value and gradient 0 at 0.

  NaN stays NaN. The exponent may be traced.
  """
  # The inner `where` keeps the infinite derivative at 0 from becoming NaN; see
  # "gradients contain NaN where using where" in the JAX FAQ.
  zero = base <= 0
  base = jnp.where(zero, 1, base)
  if isinstance(exponent, jax.Array):
    power = base ** exponent.astype(base.dtype)
  else:
    power = jnp.sqrt(base) if exponent == 0.5 else base**exponent
  return jnp.where(zero, 0, power)


def _clean(sums, doubled, same):
  """Squared distances `sums + doubled`, set to 0 where they are below rounding error.

  Duplicate rows would otherwise have a small positive or negative distance, and a root
  of it would have a huge gradient.
  """
  gaps = sums + doubled
  # `gaps <= noise` is False for NaN, so NaN passes.
  noise = 4 * jnp.finfo(gaps.dtype).eps * lax.stop_gradient(sums)
  return jnp.where(same | (gaps <= noise), 0, gaps)


def _squared_distances(gaps, rows, columns):
  return _distances_from_gaps(
    gaps, (rows.scales, rows.norms), (columns.scales, columns.norms)
  )


@jax.custom_jvp
def _distances_from_gaps(gaps, rows, columns):
  (row_scales, row_norms), (column_scales, column_norms) = rows, columns
  scales = row_scales[:, None] * column_scales[None, :]
  differences = row_scales[:, None] - column_scales[None, :]
  stretched = row_norms[:, None] - column_norms[None, :]
  squared = scales * gaps + differences * stretched
  return jnp.where(squared <= 0, 0, squared)


@_distances_from_gaps.defjvp
def _distances_from_gaps_jvp(primals, tangents):
  """Derivative with the changes of scales and norms written as outer products.

  The transpose of an outer product is a matrix-vector product. Without this, each sum
  over a broadcast factor would write a matrix of all pairs.
  """
  gaps, *sides = primals
  # A part that is common to all scales or norms cancels in the result. Subtracted here,
  # it takes no digits with it.
  (row_scales, row_norms), (scales, norms) = (
    tuple(each - common.mean() for each, common in zip(side, sides[1], strict=True))
    for side in sides
  )
  change, (row_scales_change, row_norms_change), (scales_change, norms_change) = (
    tangents
  )
  squared = _distances_from_gaps(*primals)

  def outer(left, right):
    return float32.matmul(jnp.stack(left, 1), jnp.stack(right))

  one, row_one = jnp.ones_like(scales), jnp.ones_like(row_scales)
  row_products = row_scales * row_norms_change + row_norms * row_scales_change
  products = scales * norms_change + norms * scales_change
  stretched = outer((row_scales_change,), (sides[1][0],))
  stretched += outer((sides[0][0],), (scales_change,))
  differences = outer(
    (row_products, -row_scales_change, -row_norms_change), (one, norms, scales)
  )
  differences += outer(
    (row_one, -row_scales, -row_norms), (products, norms_change, scales_change)
  )
  change = sides[0][0][:, None] * sides[1][0][None, :] * change
  change += stretched * gaps + differences
  return squared, jnp.where(squared <= 0, 0, change)

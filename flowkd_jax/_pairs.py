"""Geometry of all pairs of rows: distances and cosines from one inner product.

One matrix of inner products, of rows scaled to norm one and centred, gives squared
distances and cosines alike. Scaling keeps the digits of a row that is much smaller
than the others; centring keeps the digits of the differences when the rows have a
large common mean. With `x_i = s_i v_i`, s constant and `e_ij = |v_i - v_j|^2`:

    |x_i - x_j|^2 = s_i s_j e_ij + (s_i - s_j)(s_i |v_i|^2 - s_j |v_j|^2)
    1 - cos_ij    = (e_ij - (|v_i| - |v_j|)^2) / (2 |v_i| |v_j|)

Both are polynomials in x wherever a norm is not divided by, so the gradient of a
distance is exact at zero rows too.

What needs all pairs takes some rows against all columns, block by block, so that no
matrix of all pairs is ever in memory.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax import _checks
from flowkd_jax import _precision


class Pairs(NamedTuple):
  """Geometry of n rows against m columns.

  Attributes:
    squared_distances: `|a - b|^2`; exactly 0 for a row with itself, and for what
      the arithmetic cannot tell from a duplicate.
    cosine_gaps: `(1 - cos) / 2` in [0, 1]; 1/2 where either vector is zero.
    norm_products: `|a| |b|`.
    norm_sums: `|a| + |b|`.
    same: The pairs of a row with itself.
  """

  squared_distances: Float[Array, "n m"]
  cosine_gaps: Float[Array, "n m"]
  norm_products: Float[Array, "n m"]
  norm_sums: Float[Array, "n m"]
  same: Bool[Array, "n m"]


def pair_geometry(
  rows: Float[Array, "n dim"],
  columns: Float[Array, "m dim"],
  positions: Int[Array, " n"],
) -> Pairs:
  """Geometry of some rows of a batch against the whole batch.

  Args:
    rows: Vectors, some of `columns`; the same object if they are all of them, which
      halves the work of the backward pass.
    columns: The vectors of the whole batch.
    positions: Where each row stands within `columns`.
  """
  column_squares = (columns**2).sum(1)
  column_scales = _scales(column_squares, column_squares)
  weights = lax.stop_gradient(1 / (column_scales * columns.shape[0]))
  centre = lax.stop_gradient(_precision.matmul(weights[None, :], columns))
  scaled_columns = columns / column_scales[:, None] - centre
  if rows is columns:
    row_squares, row_scales = column_squares, column_scales
    products = gram(scaled_columns)
    row_parts = column_parts = jnp.diagonal(products)
  else:
    row_squares = (rows**2).sum(1)
    row_scales = _scales(row_squares, column_squares)
    scaled_rows = rows / row_scales[:, None] - centre
    products = _precision.matmul(scaled_rows, scaled_columns.T)
    row_parts, column_parts = (scaled_rows**2).sum(1), (scaled_columns**2).sum(1)
  same = (
    positions[:, None] == jnp.arange(columns.shape[0], dtype=positions.dtype)[None, :]
  )
  gaps = _clean(row_parts[:, None] + column_parts[None, :], products, same)
  row_units = row_squares / row_scales**2
  column_units = column_squares / column_scales**2
  row_norms = safe_power(row_squares, 0.5)[:, None]
  column_norms = safe_power(column_squares, 0.5)[None, :]
  return Pairs(
    _squared_distances(gaps, row_scales, column_scales, row_units, column_units),
    _cosine_gaps(gaps, row_units, column_units, same),
    row_norms * column_norms,
    row_norms + column_norms,
    same,
  )


def rows_in_blocks(
  function: Callable[..., Float[Array, " rows"]],
  block_size: int | None,
  *rows: Array,
) -> Float[Array, " batch"]:
  """Evaluates a per-row function in blocks of rows, also in the backward pass.

  Memory is that of one block: each block is recomputed when its gradient is
  taken.

  Args:
    function: Takes blocks of `rows`, returns one value a row; each value may
      depend on its own row only (and on arrays closed over).
    block_size: Rows a block; None evaluates all at once.
    *rows: Arrays that share their first axis.

  Raises:
    ValueError: If `block_size` is below 1.
  """
  if block_size is None:
    return function(*rows)
  _checks.check_positive("block_size", block_size)
  batch = rows[0].shape[0]
  if block_size >= batch:
    return function(*rows)
  padding = -batch % block_size

  def split(array):
    widths = [(0, padding)] + [(0, 0)] * (array.ndim - 1)
    padded = jnp.pad(array, widths, mode="edge")
    return padded.reshape(-1, block_size, *array.shape[1:])

  blocks = tuple(split(array) for array in rows)
  checkpointed = jax.checkpoint(lambda block: function(*block))  # type: ignore[reportPrivateImportUsage]
  return lax.map(checkpointed, blocks).reshape(-1)[:batch]


@jax.custom_jvp
def gram(rows: Float[Array, "n dim"]) -> Float[Array, "n n"]:
  """Inner products of all rows; one matrix product backwards instead of two."""
  return _precision.matmul(rows, rows.T)


@gram.defjvp
def _gram_jvp(primals, tangents):
  (rows,), (tangent,) = primals, tangents
  half = _precision.matmul(tangent, rows.T)
  return gram(rows), half + half.T


def safe_power(base: Float[Array, "..."], exponent: float) -> Float[Array, "..."]:
  """`base ** exponent` for `base >= 0`, with value and gradient 0 at 0."""
  # The inner `where` keeps the infinite derivative at 0 from becoming NaN; see
  # "gradients contain NaN where using where" in the JAX FAQ.
  positive = base > 0
  base = jnp.where(positive, base, 1)
  power = jnp.sqrt(base) if exponent == 0.5 else base**exponent
  return jnp.where(positive, power, 0)


def _scales(squares, all_squares):
  """Norms as constants; a zero row takes the mean norm of the batch."""
  norms = jnp.sqrt(lax.stop_gradient(squares))
  mean = jnp.sqrt(lax.stop_gradient(all_squares)).mean()
  return jnp.where(norms > 0, norms, jnp.where(mean > 0, mean, 1))


def _clean(sums, products, same):
  """`sums - 2 products`, 0 where that is below the resolution of the arithmetic."""
  gaps = sums - 2 * products
  noise = 4 * jnp.finfo(gaps.dtype).eps * lax.stop_gradient(sums)
  return jnp.where(same | (gaps <= noise), 0, gaps)


def _squared_distances(gaps, row_scales, column_scales, row_units, column_units):
  scales = row_scales[:, None] * column_scales[None, :]
  differences = row_scales[:, None] - column_scales[None, :]
  stretched = (row_scales * row_units)[:, None] - (column_scales * column_units)[
    None, :
  ]
  squared = scales * gaps + differences * stretched
  return jnp.where(squared > 0, squared, 0)


def _cosine_gaps(gaps, row_units, column_units, same):
  row_norms, column_norms = safe_power(row_units, 0.5), safe_power(column_units, 0.5)
  products = row_norms[:, None] * column_norms[None, :]
  differences = row_norms[:, None] - column_norms[None, :]
  zero = products == 0
  halves = (gaps - differences**2) / jnp.where(zero, 1, 4 * products)
  halves = jnp.where(halves > 0, jnp.where(halves < 1, halves, 1), 0)
  return jnp.where(same, 0, jnp.where(zero, 0.5, halves))

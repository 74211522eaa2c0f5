"""The pairwise kernel, and functions that prepare the rows it compares."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks
from flowkd_jax._numerics.pairwise import Pairs

_Matrix = Float[Array, "rows columns"]
Scalar = Float[Array, ""]  # an option that is traced, learnt or scheduled


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("params",),
  meta_fields=("name", "log", "bandwidth", "direct"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
  """Pairwise kernel. Call it on features for the matrix of similarities.

  It is a pytree whose leaves are `params`, which may be traced and differentiated.

  Attributes:
    name: Name in configurations, tables and figures.
    log: Function `(pairs, measured) -> [n, m]`. Returns the logarithms of the
      similarities of n rows with all m rows, 0 for a row with itself. `pairs` is a
      `Pairs`, whose distances are in units of `unit_of(columns)`. `measured` is the
      result of `bandwidth`.
    bandwidth: Function `(params, columns [m, d], mask [m], block_size) -> measured`.
      Returns the statistics of the whole batch that the kernel needs, such as its
      bandwidth in units of the batch. `columns` are the rows of all devices, with
      masked rows set to zero. It may hold only `block_size` rows of a pairwise matrix
      at a time. `mask` and `block_size` may be None.
    params: Numbers or arrays of shape ().
    direct: Function `(pairs, measured, means) -> similarities` without logarithms,
      which is faster; `cauchy` has an example. None if a similarity may underflow in
      float32.
  """

  name: str
  log: Callable[[Pairs, Any], _Matrix]
  bandwidth: Callable[[Any, Float[Array, "m d"], Array | None, int | None], Any]
  params: Any = ()
  direct: Callable[[Pairs, Any, pairwise.Means], pairwise.Similarities] | None = None

  def measure(
    self, columns: Float[Array, "m d"], mask: Array | None, block_size: int | None
  ) -> Any:
    """Statistics of the whole batch, the second argument of `log`."""
    return self.bandwidth(self.params, columns, mask, block_size)

  @meshes.on_any_mesh
  def __call__(
    self, features: Float[Array, "batch ..."]
  ) -> Float[Array, "batch batch"]:
    """Similarities between all rows of `features`.

    Raises:
      TypeError: If `features` is not floating point.
      ValueError: If `features` is empty or has no feature axis.
    """
    checks.check_features(features=features)
    rows = flatten(features)
    points = pairwise.pair_points(rows, rows)
    pairs = pairwise.pair_geometry(points, points, jnp.arange(rows.shape[0]))
    return jnp.exp(self.log(pairs, self.measure(rows, None, None)))


def flatten(
  features: Float[Array, "batch ..."], mask: Array | None = None
) -> Float[Array, "batch dim"]:
  """Rows as vectors in float32 or a wider dtype. Masked rows become zero."""
  rows = float32.at_least_float32(features).reshape(features.shape[0], -1)
  if mask is None:
    return rows
  return jnp.where(jnp.asarray(mask).astype(bool)[:, None], rows, 0)


def unit_rows(rows: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
  """Rows divided by their Euclidean norms. A zero row and its gradient stay zero."""
  # Scaled by a power of two, which is exact, no square overflows or underflows.
  powers = float32.power_of_two(float32.largest_entries(rows))
  rows = rows * (1 / powers)[:, None]
  norms = pairwise.safe_power((rows**2).sum(1, keepdims=True), 0.5)
  zero = norms == 0
  return jnp.where(zero, 0, rows / jnp.where(zero, 1, norms))


def largest_factor(dtype) -> float:
  """Largest factor by which squared distances are multiplied.

  Sums of many such products stay finite. With a larger factor every row would have only
  itself as a neighbour, so the cap changes no similarity that matters.
  """
  return float(jnp.finfo(dtype).max) ** 0.9


def mean_over_pairs(columns, mask, block_size, function, measured, *, self_pairs):
  """Mean of a function over all pairs of real rows, computed block by block.

  Args:
    columns: Rows of the whole batch, `[m, d]`. They are constants to the gradient.
    mask: True for real rows, `[m]`, or None.
    block_size: Number of rows in a block, or None.
    function: `(pairs, measured) -> [n, m]`.
    measured: Second argument of `function`.
    self_pairs: Include the pairs of a row with itself.
  """
  columns = lax.stop_gradient(columns)
  real = None if mask is None else jnp.asarray(mask).astype(bool)

  def row_sums(shared, block):
    columns, real, measured = shared
    pairs = pairwise.pair_geometry(block[0], columns, block[1])
    valid = pairwise.valid_pairs(pairs.same, real, self_pairs=self_pairs)
    return jnp.where(valid, function(pairs, measured), 0).sum(1)

  rows, everyone = pairwise.rows_and_columns(columns, columns, block_size)
  positions = jnp.arange(columns.shape[0], dtype=jnp.int32)
  weights = jnp.ones_like(rows.squares) if real is None else real.astype(columns.dtype)
  count = weights.sum()
  pairs_count = count * (count if self_pairs else count - 1)
  weights = weights / jnp.maximum(pairs_count, 1)
  return row_blocks.sum_over_rows(
    row_sums, block_size, (everyone, real, measured), (rows, positions), weights
  )

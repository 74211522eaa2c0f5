"""Linear CKA of every student tap and every teacher tap, inside a training program."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import float32

Rows = Float[Array, "batch ..."]
# Pairs of taps that are recorded in every epoch: more would swell the metrics.
MOST_PAIRS = 144


def cka_of_all_pairs(
  students: Sequence[Rows],
  teachers: Sequence[Rows],
  *,
  mask: Shaped[Array, " batch"] | None,
  axis_name: str | None,
) -> Float[Array, "student_taps teacher_taps"]:
  """1 less `losses.linear_cka` of every pair; 0 where all rows of a tap are alike.

  Each tap is multiplied with itself once, which compiles and runs faster than a loss
  for each pair. With N rows in the global batch, n of them on this device, and T taps
  it takes `O(n N (W + T^2))` time for taps of W entries a row together, and memory for
  T matrices of n x N.

  Args:
    students: Activations of the student's taps.
    teachers: Activations of the teacher's taps on the same rows.
    mask: True for real rows.
    axis_name: Mapped axis over which the batch is split.
  """
  taps = [_similarities(tap, mask, axis_name) for tap in (*students, *teachers)]
  ours, theirs = (
    jnp.stack(side).reshape(len(side), -1)
    for side in (taps[: len(students)], taps[len(students) :])
  )
  return parallel.global_sum(float32.matmul(ours, theirs.T), axis_name)


def _similarities(tap, mask, axis_name) -> Float[Array, "batch global"]:
  """Inner products of centred rows of this device and all, of norm 1 over devices."""
  real = parallel.gather_rows(parallel.real_rows(tap, mask), axis_name)[:, None]
  rows = parallel.gather_rows(kernels.flatten(tap, mask), axis_name)
  # In units of the largest entry no square overflows.
  largest = jnp.abs(rows).max()
  rows = rows / jnp.where(largest == 0, 1, largest)
  mean = rows.sum(0, keepdims=True) / jnp.maximum(real.sum(dtype=rows.dtype), 1)
  centred = jnp.where(real, rows - mean, 0)
  # What rounding leaves of equal rows would have norm 1 too.
  noise = float(8 * jnp.finfo(rows.dtype).eps) ** 2 * jnp.square(rows).sum()
  centred = jnp.where(jnp.square(centred).sum() <= noise, 0, centred)
  own = centred
  if axis_name is not None:
    own = centred[parallel.row_positions(tap.shape[0], axis_name)]
  products = float32.matmul(own, centred.T)
  size = jnp.sqrt(parallel.global_sum(jnp.square(products).sum(), axis_name))
  return products / jnp.where(size == 0, 1, size)

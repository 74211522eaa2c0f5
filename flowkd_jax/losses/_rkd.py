"""Relational distillation: distances and angles between the rows of a batch.

All distances come from one matrix of inner products of centred, scaled rows at full
precision, so a large common mean or duplicate rows do not destroy them, and no
gradient is ever NaN: a length of zero has gradient zero.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks
from flowkd_jax.losses import _batch


@meshes.on_any_mesh
def rkd_distance(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  reduction: str = "mean",
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Distance-wise relational distillation: Huber loss of relative distances.

  `mean_{i != j} huber(d^s_ij / m^s - d^t_ij / m^t)`, `d_ij = |x_i - x_j|`, m the mean
  of d over all pairs of different rows (Park et al. 2019, Eq. 5-8). Depends neither on
  the batch size nor on the widths. Invariant to rotation, shift and scale of either
  side, and to permutation.

  Differs from the paper, which sums over pairs, and from its code, which averages over
  all pairs with the diagonal (`reduction="matrix"`, smaller by `1 - 1 / batch`) and
  clamps squared distances at 1e-12, which makes gradients of duplicates huge; here
  they are 0. The paper weights this loss 25 (metric learning: 1) beside 50 (2) for
  the angles.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    reduction: "mean" is the mean over pairs of different rows. "rows" is the mean over
      rows of the sum over all other rows, which is larger by the factor `batch - 1`.
      "matrix" is the mean over all pairs, as in the authors' code.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      or `reduction` is another word.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0], [1.0], [3.0]])
    >>> float(rkd_distance(2 * features + 1, features))
    0.0

  References:
    Park et al., "Relational knowledge distillation", CVPR 2019.
  """
  checks.check_choice("reduction", reduction, _batch.PAIR_REDUCTIONS)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  count = batch.number
  points, columns = _batch.pair_sides(batch, block_size)
  real = None if mask is None else batch.real
  weights = parallel.mean_weights(mask, axis_name, *batch.rows)

  def sum_over_rows(function, shared, points):
    total = row_blocks.sum_over_rows(
      function, block_size, (shared, real), (points, batch.positions), weights
    )
    return parallel.global_sum(total, axis_name)

  def row_sums(shared, block):
    columns, real = shared
    distances, valid = _distances(block[0], columns, block[1], real)
    return jnp.where(valid, distances, 0).sum(1)

  def mean_distance(side):
    sums = sum_over_rows(row_sums, columns[side], points[side])
    mean = sums / jnp.maximum(count - 1, 1)
    return jnp.where(mean == 0, 1, mean)  # all rows alike: every distance is 0

  def row_terms(shared, block):
    (columns, means), real = shared
    points, positions = block
    (student, valid), (teacher, _) = (
      _distances(*side, positions, real) for side in zip(points, columns, strict=True)
    )
    gaps = student / means[0] - teacher / means[1]
    return jnp.where(valid, _huber(gaps), 0).sum(1)

  means = mean_distance(0), mean_distance(1)
  loss = sum_over_rows(row_terms, (columns, means), points)
  divisors = {"mean": count - 1, "rows": jnp.ones_like(count), "matrix": count}
  return loss / jnp.maximum(divisors[reduction], 1)


@meshes.on_any_mesh
def rkd_angle(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  reduction: str = "mean",
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Angle-wise relational distillation: Huber loss of cosines in all triangles.

  `mean huber(cos^s_jik - cos^t_jik)` over all triples of different rows, `cos_jik` the
  cosine of the angle at row i between rows j and k (Park et al. 2019, Eq. 9-10).
  Depends neither on the batch size nor on the widths. Invariant to rotation, shift and
  scale of either side, and to permutation. An angle with an arm of length zero has
  cosine 0.

  The law of cosines takes all angles from one matrix of squared distances: O(N^2 D +
  N^3) time, where the authors' code takes O(N^3 D). Differs from that code also in
  the mean, which runs there over all `N^3` triples (`reduction="matrix"`), and in the
  paper, which sums.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    reduction: "mean" is the mean over triples of different rows. "rows" is the mean
      over rows of the sum over pairs of other rows. "matrix" is the mean over all
      triples, as in the authors' code.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of vertices evaluated at a time, also in the backward pass.
      Memory is O(N (D + N block_size)) for N rows, where D is the sum of both widths.
      If None, a fast size is chosen.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      or `reduction` is another word.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    >>> float(rkd_angle(2 * features + 1, features)) < 1e-6
    True

  References:
    Park et al., "Relational knowledge distillation", CVPR 2019.
  """
  checks.check_choice("reduction", reduction, _batch.PAIR_REDUCTIONS)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  size = batch.real.shape[0]
  everyone = jnp.arange(size, dtype=batch.positions.dtype)
  sides = [pairwise.pair_points(side, side) for side in batch.columns]
  squared = [
    pairwise.pair_geometry(side, side, everyone).squared_distances for side in sides
  ]

  def row_terms(shared, block):
    *sides, real = shared
    *arms, positions = block
    everyone = jnp.arange(size, dtype=positions.dtype)
    others = pairwise.valid_pairs(positions[:, None] == everyone[None, :], real)
    different = everyone[:, None] != everyone[None, :]
    valid = others[:, :, None] & others[:, None, :] & different[None]
    student, teacher = zip(arms, sides, strict=True)
    return _angle_terms(student, teacher, valid)

  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (*squared, None if mask is None else batch.real),
    (*(side[batch.positions] for side in squared), batch.positions),
    parallel.mean_weights(mask, axis_name, *batch.rows),
    row_entries=size**2,
  )
  loss = parallel.global_sum(total, axis_name)
  count = batch.number
  divisors = {
    "mean": (count - 1) * (count - 2),
    "rows": jnp.ones_like(count),
    "matrix": count**2,
  }
  return loss / jnp.maximum(divisors[reduction], 1)


def _distances(points, columns, positions, real):
  """Distances of all pairs, and which of them count."""
  pairs = pairwise.pair_geometry(points, columns, positions)
  valid = pairwise.valid_pairs(pairs.same, real)
  return pairwise.safe_power(pairs.squared_distances, 0.5), valid


def _huber(gaps):
  sizes = jnp.abs(gaps)
  return jnp.where(sizes < 1, gaps**2 / 2, sizes - 0.5)


@jax.custom_jvp
def _angle_terms(student, teacher, valid):
  """At each vertex, the sum over its triangles; a side is `(arms, squared)`."""
  gaps = _angle_cosines(*student) - _angle_cosines(*teacher)
  return jnp.where(valid, _huber(gaps), 0).sum((1, 2))


@functools.partial(_angle_terms.defjvp, symbolic_zeros=True)
def _angle_terms_jvp(primals, tangents):
  """Both arms of an angle at once: all here is symmetric in them."""
  *sides, valid = primals
  cosines = [_angle_cosines(*side) for side in sides]
  slopes = jnp.where(valid, jnp.clip(cosines[0] - cosines[1], -1, 1), 0)
  change = jnp.zeros_like(sides[0][0][:, 0])
  for sign, side, cosine, tangent in zip(
    (1, -1), sides, cosines, tangents, strict=False
  ):
    arms_change, squared_change = tangent
    if isinstance(squared_change, SymbolicZero):
      continue
    inverses = pairwise.safe_power(side[0], -0.5)
    slopes_inside = jnp.where(jnp.abs(cosine) < 1, slopes, 0)
    weighted = slopes_inside * inverses[:, None, :]
    arm_slopes = inverses * weighted.sum(2)
    arm_slopes -= (slopes_inside * cosine).sum(2) * inverses**2
    opposite = (weighted * inverses[:, :, None] * squared_change[None]).sum((1, 2))
    change += sign * ((arm_slopes * arms_change).sum(1) - opposite / 2)
  return _angle_terms(*primals), change


def _angle_cosines(arms, squared):
  """Cosines at each vertex between its arms, from squared distances."""
  inverses = pairwise.safe_power(arms, -0.5)
  halves = inverses[:, :, None] * (inverses / 2)[:, None, :]
  return jnp.clip((arms[:, :, None] + arms[:, None, :] - squared[None]) * halves, -1, 1)

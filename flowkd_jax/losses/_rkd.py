"""Relational distillation: distances and angles between the rows of a batch.

All distances come from one matrix of inner products of centred and scaled rows at full
precision. They are accurate also for duplicate rows and for features with a large
common mean. A length of zero has the gradient zero, so no gradient is NaN.
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

  `mean_{i != j} huber(d^s_ij / m^s - d^t_ij / m^t)` with `d_ij = |x_i - x_j|`, where m
  is the mean of d over all pairs of different rows (Park et al. 2019, Eq. 5-8). The
  loss depends neither on the batch size nor on the widths. It is invariant to rotation,
  shift and scale of either side, and to permutation of the rows.

  Differs from the paper, which sums over pairs. The authors' code takes the mean over
  all pairs including the diagonal (`reduction="matrix"`), which is smaller by the
  factor `1 - 1 / batch`. It also clamps squared distances at 1e-12, which makes the
  gradients of duplicate rows huge. Here they are 0. The paper uses the weights 25 for
  distances and 50 for angles, and 1 and 2 for metric learning.

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
      or `reduction` is unknown.

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
    return jnp.where(mean == 0, 1, mean)  # all rows are equal: every distance is 0

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

  `mean huber(cos^s_jik - cos^t_jik)` over all triples of different rows, where
  `cos_jik` is the cosine of the angle at row i between rows j and k (Park et al. 2019,
  Eq. 9-10). The loss depends neither on the batch size nor on the widths. It is
  invariant to rotation, shift and scale of either side, and to permutation of the rows.
  An angle with an arm of length zero has cosine 0.

  By the law of cosines all angles are computed from one matrix of squared distances.
  This takes O(N^2 D + N^3) time, and the authors' code takes O(N^3 D). That code takes
  the mean over all `N^3` triples (`reduction="matrix"`), and the paper sums.

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
      or `reduction` is unknown.

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
  # Every device computes all N^2 squared distances at once. They are small beside the
  # N^2 cosines of each vertex, which are computed in blocks of vertices.
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
  """Distances of all pairs, and a mask of the pairs that count."""
  pairs = pairwise.pair_geometry(points, columns, positions)
  valid = pairwise.valid_pairs(pairs.same, real)
  return pairwise.safe_power(pairs.squared_distances, 0.5), valid


def _huber(gaps):
  sizes = jnp.abs(gaps)
  return jnp.where(sizes < 1, gaps**2 / 2, sizes - 0.5)


@jax.custom_jvp
def _angle_terms(student, teacher, valid):
  """Sum of the Huber losses over the triangles at each vertex.

  Args:
    student: Pair of `arms`, squared distances of each vertex to all rows `[n, m]`, and
      `squared`, squared distances of all rows `[m, m]`.
    teacher: The same for the teacher.
    valid: Mask of the triangles that count, `[n, m, m]`.
  """
  gaps = _angle_cosines(*student) - _angle_cosines(*teacher)
  return jnp.where(valid, _huber(gaps), 0).sum((1, 2))


@functools.partial(_angle_terms.defjvp, symbolic_zeros=True)
def _angle_terms_jvp(primals, tangents):
  """Derivative from the cosines, with few arrays `[n, m, m]`.

  The Huber loss and the cosine are symmetric in both arms of an angle, so the
  derivative with respect to one arm is computed and counted for both.
  """
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
    # A cosine that rounding has pushed beyond 1 was clipped and has no gradient.
    slopes_inside = jnp.where(jnp.abs(cosine) < 1, slopes, 0)
    weighted = slopes_inside * inverses[:, None, :]
    # cos = (a_j + a_k - d_jk) / (2 sqrt(a_j a_k)) with squared lengths a of the arms:
    # the derivative with respect to a_j, twice for the two arms, and to d_jk.
    arm_slopes = inverses * weighted.sum(2)
    arm_slopes -= (slopes_inside * cosine).sum(2) * inverses**2
    opposite = (weighted * inverses[:, :, None] * squared_change[None]).sum((1, 2))
    change += sign * ((arm_slopes * arms_change).sum(1) - opposite / 2)
  return _angle_terms(*primals), change


def _angle_cosines(arms, squared):
  """Cosines of the angles at each vertex, from squared distances."""
  inverses = pairwise.safe_power(arms, -0.5)
  halves = inverses[:, :, None] * (inverses / 2)[:, None, :]
  return jnp.clip((arms[:, :, None] + arms[:, None, :] - squared[None]) * halves, -1, 1)

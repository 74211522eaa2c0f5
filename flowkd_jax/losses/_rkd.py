"""Relational distillation: distances and angles between the rows of a batch.

All distances come from one matrix of inner products of centred, scaled rows at full
precision, so a large common mean or duplicate rows do not destroy them, and no
gradient is ever NaN: a length of zero has gradient zero.
"""

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import _checks
from flowkd_jax import _global_batch
from flowkd_jax import _pairs
from flowkd_jax import information
from flowkd_jax.losses import _batch


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
    student: Student features; axes after the first are flattened.
    teacher: Teacher features, of any width.
    reduction: "mean" over the pairs of different rows; "rows", the mean over rows of
      the sum over the others, larger by batch - 1; "matrix", the authors'.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split.
    block_size: Rows evaluated at a time; memory is then O(batch x block_size).

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
  _checks.check_choice("reduction", reduction, _batch.PAIR_REDUCTIONS)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  count = batch.number

  def distances(side, rows, positions):
    pairs = _pairs.pair_geometry(rows, batch.columns[side], positions)
    return _pairs.safe_power(pairs.squared_distances, 0.5)

  def mean_distance(side):
    def row_sums(rows, positions):
      valid = batch.others(positions)
      return jnp.where(valid, distances(side, rows, positions), 0).sum(1)

    sums = information.rows_in_blocks(
      row_sums, block_size, batch.rows[side], batch.positions
    )
    mean = _global_batch.global_mean(sums, mask, axis_name) / jnp.maximum(count - 1, 1)
    return jnp.where(mean > 0, mean, 1)  # all rows alike: every distance is 0

  means = mean_distance(0), mean_distance(1)

  def row_terms(student_rows, teacher_rows, positions):
    gaps = (
      distances(0, student_rows, positions) / means[0]
      - distances(1, teacher_rows, positions) / means[1]
    )
    return jnp.where(batch.others(positions), _huber(gaps), 0).sum(1)

  terms = information.rows_in_blocks(
    row_terms, block_size, *batch.rows, batch.positions
  )
  loss = _global_batch.global_mean(terms, mask, axis_name)
  divisors = {"mean": count - 1, "rows": jnp.ones_like(count), "matrix": count}
  return loss / jnp.maximum(divisors[reduction], 1)


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
    student: Student features; axes after the first are flattened.
    teacher: Teacher features, of any width.
    reduction: "mean" over the triples of different rows; "rows", the mean over rows
      of the sum over pairs of others; "matrix", the authors'.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split.
    block_size: Vertices evaluated at a time, in the backward pass too; memory is
      O(batch^2 x block_size), and O(batch^3) without.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      or `reduction` is another word.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    >>> float(rkd_angle(2 * features + 1, features))
    0.0

  References:
    Park et al., "Relational knowledge distillation", CVPR 2019.
  """
  _checks.check_choice("reduction", reduction, _batch.PAIR_REDUCTIONS)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  size = batch.real.shape[0]
  everyone = jnp.arange(size, dtype=batch.positions.dtype)
  squared = [
    _pairs.pair_geometry(side, side, everyone).squared_distances
    for side in batch.columns
  ]
  different = everyone[:, None] != everyone[None, :]

  def row_terms(positions):
    cosines = [_angle_cosines(side[positions], side) for side in squared]
    arms = batch.others(positions)
    valid = arms[:, :, None] & arms[:, None, :] & different[None]
    return jnp.where(valid, _huber(cosines[0] - cosines[1]), 0).sum((1, 2))

  terms = information.rows_in_blocks(row_terms, block_size, batch.positions)
  loss = _global_batch.global_mean(terms, mask, axis_name)
  count = batch.number
  divisors = {
    "mean": (count - 1) * (count - 2),
    "rows": jnp.ones_like(count),
    "matrix": count**2,
  }
  return loss / jnp.maximum(divisors[reduction], 1)


def _huber(gaps):
  sizes = jnp.abs(gaps)
  return jnp.where(sizes < 1, gaps**2 / 2, sizes - 0.5)


def _angle_cosines(arms, squared):
  """Cosines at each vertex between its arms, from squared distances."""
  inverses = _pairs.safe_power(arms, -0.5)
  doubled = arms[:, :, None] + arms[:, None, :] - squared[None]
  cosines = doubled * inverses[:, :, None] * inverses[:, None, :] / 2
  return jnp.clip(cosines, -1, 1)

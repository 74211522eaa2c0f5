"""DIST: correlations of probabilities within rows and within classes."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _logits


@meshes.on_any_mesh
def dist(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  beta: _logits.Option = 1.0,
  gamma: _logits.Option = 1.0,
  temperature: _logits.Option = 1.0,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """DIST: one minus Pearson's correlation of rows, and of columns, of probabilities.

  `T^2 (beta mean_i (1 - r(s_i, t_i)) + gamma mean_c (1 - r(s_c, t_c)))`, where r is
  Pearson's correlation, `s_i` holds the probabilities of row i (inter-class relation),
  and `s_c` holds the probabilities of class c in the batch (intra-class relation)
  (Huang et al. 2022). Positions of maps and tokens are rows too, as in the authors'
  code for segmentation. The loss is between 0 and `2 T^2 (beta + gamma)`, whatever the
  batch size and the number of classes. It is invariant to a shift of each row of logits
  and to permutation of rows or classes, but not to scale or rotation.

  Differs from the authors' code, which adds 1e-8 to products of norms and thereby
  ignores classes that are rare in the batch. If a row or class has no variation on one
  side, its term is 1. If it has none on both sides, its term is 0. Entries that both
  sides rule out are left out of both correlations. The paper sets beta and gamma to 2,
  beside a cross-entropy of weight 1.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    beta: Weight of the correlations between classes, within rows. May be traced, like
      `gamma` and `temperature`.
    gamma: Weight of the correlations between rows, within classes.
    temperature: Temperature T, one number above 0.
    standardize: Standardise the logits of each row first (Sun et al. 2024), as
      `flowkd_jax.losses` explains.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
      Correlations within classes are over the global batch.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If shapes disagree, there is a single class, or `temperature` is
      not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])
    >>> float(dist(logits, logits))
    0.0

  References:
    Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022.
  """
  # Correlations of columns compare rows with one another, so all rows need the same
  # temperature.
  checks.check_positive("temperature", temperature)
  rows = _logits.read(mask, student=student, teacher=teacher)
  sides, scale = _logits.softened(rows, temperature, standardize=standardize)
  present = _present(rows)
  sides = [jax.nn.softmax(side) for side in sides]
  weights = _logits.numbers(rows, beta=beta, gamma=gamma)

  def over_rows(values):
    return parallel.global_sum(values.sum(0, keepdims=True), axis_name)

  def over_classes(values):
    return values.sum(1, keepdims=True)

  inter = _correlation_gap(sides, present, over_classes)
  inter = rows.mean(inter[:, 0], axis_name)
  intra = _correlation_gap(sides, present, over_rows)[0]
  possible = over_rows(present.astype(intra.dtype))[0] > 0
  intra = jnp.where(possible, intra, 0).sum() / jnp.maximum(
    possible.sum(dtype=intra.dtype), 1
  )
  return scale[0] ** 2 * (weights[0] * inter + weights[1] * intra)


def _present(rows):
  """Mask of entries in real rows that at least one side does not rule out."""
  student_gone, teacher_gone = (side == -jnp.inf for side in rows.sides)
  present = ~(student_gone & teacher_gone)
  return present if rows.mask is None else present & rows.mask[:, None]


def _correlation_gap(sides, present, total):
  """One minus the correlation, as half a squared distance of standardised vectors.

  In this form it keeps its digits near 0. Variation at the level of rounding errors
  counts as no variation.
  """
  count = jnp.maximum(total(present.astype(sides[0].dtype)), 1)
  units, moving = [], []
  for side in sides:
    mean = total(jnp.where(present, side, 0)) / count
    centred = jnp.where(present, side - mean, 0)
    squares = total(centred**2)
    real = jnp.where(present, side, 0)
    noise = (8 * jnp.finfo(side.dtype).eps) ** 2 * lax.stop_gradient(total(real**2))
    still = squares <= noise  # False for NaN, so NaN reaches the result
    norm = jnp.sqrt(jnp.where(still, 1, squares))
    units.append(jnp.where(still, 0, centred / norm))
    moving.append(~still)
  # If one side has no variation, its vector is 0 and the distance is 1/2: add the rest.
  gap = total((units[0] - units[1]) ** 2) / 2
  return gap + jnp.where(moving[0] != moving[1], 0.5, 0).astype(gap.dtype)

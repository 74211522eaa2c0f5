"""Regression of the teacher's features, independent of their scale.

Features are vectors `[batch, channels]`, tokens `[batch, tokens, channels]` or maps
`[batch, height, width, channels]`. Each position is compared with the same position of
the other side. If maps differ in size, the larger is average-pooled to the smaller
size.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _projection

# Mask of rows, or of positions.
Mask = Shaped[Array, "batch ..."] | None
Parameters = dict[str, Any]
NORMALIZATIONS = ("unit", "standard")
DISTANCES = ("squared", "smooth_l1")


@meshes.on_any_mesh
def cosine_regression(
  student: Float[Array, "batch *positions student_channels"],
  teacher: Float[Array, "batch *positions teacher_channels"],
  *,
  params: Parameters | None = None,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Cosine regression: one minus the cosine between teacher and projected student.

  `mean_p 1 - cos(r(s_p), t_p)` over the real positions p of the batch, with a linear
  map r. The loss is between 0 and 2, whatever the batch size, the number of positions
  and the widths. It is invariant to the scale of each vector and to a permutation of
  positions common to both sides, and without `params` to a rotation common to both
  sides. It is computed from the distance of unit vectors, so small angles keep their
  digits. The cosine with a vector of zeros is 0 and has no gradient.

  AM-RADIO has this loss on summary tokens and, with weight 0.9, on patches. Its heads
  are perceptrons of two layers. The loss is half of `normalized_regression`.

  Args:
    student: Student features: vectors, tokens or maps.
    teacher: Teacher features of the same rank. Maps may differ in size.
    params: Projection from `hint_init`, trained together with the student. If None, the
      features are compared without a projection.
    mask: True for real rows `[batch]`, or with more axes for real positions, such as
      `[batch, tokens]`. Masked entries do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches, ranks, token counts, widths or the mask disagree.

  Example:
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])
    >>> float(cosine_regression(student, teacher))
    1.0

  References:
    Ranzinger et al., "AM-RADIO: agglomerative vision foundation model. Reduce all
    domains into one", CVPR 2024.
  """
  sides = _projected(student, teacher, params, mask, axis_name)
  zero = jnp.logical_or(*((side == 0).all(-1) for side in sides))
  gaps = jnp.subtract(*map(_unit_vectors, sides))
  terms = jnp.where(zero, 1, (gaps**2).sum(-1) / 2)
  return _mean_over_positions(terms, mask, axis_name, student, teacher)


@meshes.on_any_mesh
def normalized_regression(
  student: Float[Array, "batch *positions student_channels"],
  teacher: Float[Array, "batch *positions teacher_channels"],
  *,
  params: Parameters | None = None,
  normalization: str = "unit",
  distance: str = "squared",
  threshold: float = 1.0,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Regression of normalised teacher features from projected student features.

  With `normalization="unit"` both sides have norm one, and the loss is `mean_p sum_c
  d(r(s_p)_c / |r(s_p)| - t_pc / |t_p|)` over the real positions p of the batch. With
  "standard" it is `mean_pc d(r(s_p)_c - z_pc)`, where z is the teacher's vector with
  mean 0 and variance 1 over its channels. This is layer normalisation without
  parameters, with an epsilon of 1e-5. The student is not normalised and has to learn
  this scale. `d(x)` is `x^2`. With `distance="smooth_l1"` it is `x^2 / (2 b)` up to the
  threshold b, and `|x| - b / 2` beyond it.

  Both forms depend neither on the batch size, the number of positions nor the scale of
  the teacher's vectors. "unit" does not depend on the scale of the student's vectors
  either. With squares it is twice `cosine_regression`. The loss is invariant to a
  permutation of positions common to both sides. A vector of zeros stays zero and has no
  gradient.

  VkD has the loss "standard" with "smooth_l1" on the mean over tokens (`pooling.mean`),
  after a projection by a matrix with orthonormal rows. Feature distillation has the
  same loss on all tokens, with the threshold 2.

  Args:
    student: Student features: vectors, tokens or maps.
    teacher: Teacher features of the same rank. Maps may differ in size.
    params: Projection from `hint_init`, trained together with the student. If None, the
      features are compared without a projection.
    normalization: "unit" divides the vectors of both sides by their norms, "standard"
      standardises the vectors of the teacher.
    distance: Distance of two entries, "squared" or "smooth_l1".
    threshold: Difference b from which "smooth_l1" is linear. "squared" does not use it.
    mask: True for real rows `[batch]`, or with more axes for real positions, such as
      `[batch, tokens]`. Masked entries do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches, ranks, token counts, widths or the mask disagree,
      `threshold` is not positive, or `normalization` or `distance` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])
    >>> float(normalized_regression(student, teacher))
    2.0

  References:
    Miles, Elezi and Deng, "VkD: improving knowledge distillation using orthogonal
    projections", CVPR 2024.
    Wei et al., "Contrastive learning rivals masked image modeling in fine-tuning via
    feature distillation", arXiv 2205.14141.
  """
  checks.check_choice("normalization", normalization, NORMALIZATIONS)
  checks.check_choice("distance", distance, DISTANCES)
  checks.check_positive("threshold", threshold)
  ours, theirs = _projected(student, teacher, params, mask, axis_name)
  if normalization == "unit":
    gaps = _unit_vectors(ours) - _unit_vectors(theirs)
  else:
    gaps = ours - _standardized(theirs)
  values = gaps**2 if distance == "squared" else _smooth_l1(gaps, threshold)
  terms = values.sum(-1) if normalization == "unit" else values.mean(-1)
  return _mean_over_positions(terms, mask, axis_name, student, teacher)


def _projected(student, teacher, params, mask, axis_name):
  """Both sides in float32 or wider, with masked positions zero and equal channels."""
  if mask is None or np.ndim(mask) == 1:
    ours, theirs = _projection.paired_features(student, teacher, mask)
  else:
    checks.check_features(student=student, teacher=teacher)
    _projection.check_positions(student, teacher)
    checks.check_shape("mask", mask, student.shape[:-1])
    real = jnp.asarray(mask).astype(bool)[..., None]
    ours, theirs = (
      jnp.where(real, float32.at_least_float32(side), 0) for side in (student, teacher)
    )
  ours = _projection.projected(
    ours, theirs, params, "hint_init", mask=mask, axis_name=axis_name
  )
  return ours, theirs


def _unit_vectors(features):
  return kernels.unit_rows(features.reshape(-1, features.shape[-1])).reshape(
    features.shape
  )


def _standardized(features):
  """Vectors with mean 0 and variance 1 over their channels."""
  largest = jnp.abs(lax.stop_gradient(features)).max(-1, keepdims=True)
  unit = _projection.units_of_large(largest)
  scaled = features / unit
  centred = scaled - scaled.mean(-1, keepdims=True)
  epsilon = _projection.epsilon_in(unit, _projection.EPSILON)
  return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + epsilon)


def _smooth_l1(gaps, threshold):
  bound = jnp.asarray(threshold).astype(gaps.dtype)
  small = jnp.abs(gaps) < bound
  # The squares of large gaps are not selected, but they could overflow, and their
  # gradient would then be NaN.
  squares = jnp.where(small, gaps, 0) ** 2 / (2 * bound)
  return jnp.where(small, squares, jnp.abs(gaps) - bound / 2)


def _mean_over_positions(terms, mask, axis_name, *features):
  """Mean over the real positions of all devices.

  It is NaN if a real position of the features is not finite.
  """
  if mask is None or np.ndim(mask) == 1:
    rows = terms.reshape(terms.shape[0], -1).mean(1)
    return parallel.global_mean(rows, mask, axis_name, *features)
  vectors = (side.reshape(-1, side.shape[-1]) for side in features)
  positions = jnp.asarray(mask).reshape(-1)
  return parallel.global_mean(terms.reshape(-1), positions, axis_name, *vectors)

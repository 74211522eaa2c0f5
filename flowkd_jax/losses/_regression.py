"""Regression of the teacher's features whose result does not depend on their scale.

On vectors `[batch, channels]`, tokens `[batch, tokens, channels]` and maps `[batch,
height, width, channels]`. Each position is compared with the same position; where maps
differ in size, the larger is average-pooled to the smaller.
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

# Of rows, or of positions.
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
  """Cosine regression: angle between the features, the student's projected.

  `mean_p 1 - cos(r(s_p), t_p)` over the real positions p of the batch, with a linear
  map r. Between 0 and 2, whatever the batch, the number of positions and the widths.
  Invariant to the scale of each vector and to a permutation of positions common to both
  sides; without `params` also to a rotation of both. Computed from the distance of unit
  vectors, so that small angles keep their digits. The cosine with a vector of zeros is
  0, without a gradient.

  This is the loss on summaries and, with weight 0.9, on patches of AM-RADIO, whose
  heads are perceptrons of two layers, and half of `normalized_regression`.

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
  """Regression of normalised features, the student's projected.

  With `normalization="unit"` `mean_p sum_c d(r(s_p)_c / |r(s_p)| - t_pc / |t_p|)` over
  the real positions p of the batch: both sides have norm one. With "standard"
  `mean_pc d(r(s_p)_c - z_pc)`, where z is the teacher's vector with mean 0 and variance
  1 over its channels (layer normalisation without parameters, its epsilon 1e-5): the
  student has to learn that scale. `d(x)` is `x^2`, or with `distance="smooth_l1"`
  `x^2 / (2 b)` up to the threshold b and `|x| - b / 2` beyond.

  Neither depends on the batch and the number of positions, nor on the scale of the
  teacher's vectors; "unit" does not depend on the student's either, and with squares
  is twice `cosine_regression`. Invariant to a permutation of positions common to both
  sides. A vector of zeros stays zero, without a gradient.

  "standard" with "smooth_l1" is the loss of VkD on the mean over tokens
  (`pooling.mean`), which projects by a matrix with orthonormal rows, and with the
  threshold 2 that of feature distillation on all tokens.

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
      `threshold` is not positive or a word is unknown.

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
  """Both sides at least float32, masked positions zero, with as many channels."""
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
  # Squares of the large gaps, which are not taken, may overflow.
  squares = jnp.where(small, gaps, 0) ** 2 / (2 * bound)
  return jnp.where(small, squares, jnp.abs(gaps) - bound / 2)


def _mean_over_positions(terms, mask, axis_name, *features):
  """Mean over real positions of all devices; NaN as in `parallel.global_mean`."""
  if mask is None or np.ndim(mask) == 1:
    rows = terms.reshape(terms.shape[0], -1).mean(1)
    return parallel.global_mean(rows, mask, axis_name, *features)
  vectors = (side.reshape(-1, side.shape[-1]) for side in features)
  positions = jnp.asarray(mask).reshape(-1)
  return parallel.global_mean(terms.reshape(-1), positions, axis_name, *vectors)

"""Learnt maps from the student's channels to the teacher's, before a comparison.

A projection is a dictionary of parameters. With a "kernel" `[inputs, outputs]` it is a
linear map at every position, which is a 1 x 1 convolution on maps. With a "scale" the
result is batch-normalised and scaled, as in PyTorch's `BatchNorm2d`. With a "bias" an
offset is added at the end. Projections are not needed after training. The normalisation
therefore always uses the statistics of the batch, over the real rows of all devices,
and keeps no running averages.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax.losses import _spatial

Features = Float[Array, "batch *positions channels"]
Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
# Constant added to the variance in every normalisation, as in PyTorch.
EPSILON = 1e-5


def normalized_init(
  key: Key[Array, ""], inputs: int, outputs: int, *, size: int = 1
) -> Parameters:
  """Parameters of a convolution without bias, followed by batch normalisation.

  Args:
    key: Random key.
    inputs: Number of input channels.
    outputs: Number of output channels.
    size: Side length of the kernel. With 1 the kernel is a matrix.
  """
  shape = (inputs, outputs) if size == 1 else (size, size, inputs, outputs)
  kernel = jax.nn.initializers.he_normal()(key, shape, jnp.float32)
  return {"kernel": kernel, "scale": jnp.ones(outputs), "bias": jnp.zeros(outputs)}


def paired_features(
  student: Features, teacher: Features, mask: Mask
) -> tuple[Features, Features]:
  """Both sides after checks, in float32 or wider, with equal axes but the last.

  Masked rows are zero. The larger of two maps is average-pooled to the smaller size.
  """
  if jnp.ndim(student) == jnp.ndim(teacher) == 4:
    return _spatial.paired_maps(student, teacher, mask)
  checks.check_features(student=student, teacher=teacher)
  checks.check_mask(mask, student)
  check_positions(student, teacher)
  return _spatial.zero_masked(student, mask), _spatial.zero_masked(teacher, mask)


def check_positions(student: Features, teacher: Features) -> None:
  """Raises ValueError unless all axes but the last are equal on both sides."""
  if student.shape[:-1] != teacher.shape[:-1]:
    raise ValueError(
      "expected student and teacher to agree in all axes but the last (maps may differ "
      f"in size), but student has shape {student.shape} and teacher {teacher.shape}"
    )


def projected(
  student: Features,
  teacher: Features,
  params: Mapping[str, Any] | None,
  init: str,
  *,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Features:
  """Student features with the number of the teacher's channels.

  Args:
    student: Student features, with masked rows set to zero.
    teacher: Teacher features. Only their width is used.
    params: The projection, or None if both sides have the same number of channels.
    init: Name of the function that makes the parameters, for error messages.
    mask: True for real rows or positions. Statistics of a normalisation are over these.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    ValueError: If the projection does not fit, or `params` is None and the numbers of
      channels differ.
  """
  if params is not None:
    check_kernel("params", params["kernel"], student, teacher)
    return linear(student, params, mask=mask, axis_name=axis_name)
  if student.shape[-1] != teacher.shape[-1]:
    raise ValueError(
      "expected the same number of channels on both sides, but student has "
      f"{student.shape[-1]} channels and teacher {teacher.shape[-1]}: pass params, "
      f"from {init}(key, student.shape, teacher.shape)"
    )
  return student


def linear(
  features: Features,
  params: Mapping[str, Any],
  *,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Features:
  """Product of features with a matrix over their last axis.

  It is normalised if `params` has a "scale", and offset if `params` has a "bias".
  """
  kernel = jnp.asarray(params["kernel"]).astype(features.dtype)
  product = jnp.tensordot(features, kernel, 1, precision=lax.Precision.HIGHEST)
  return _normalized_or_offset(product, params, mask, axis_name)


def convolution(
  maps: Float[Array, "batch height width inputs"],
  params: Mapping[str, Any],
  name: str,
  *,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, "batch height width outputs"]:
  """Convolution that keeps the size of the maps.

  It is normalised if `params` has a "scale", and offset if `params` has a "bias".

  Args:
    maps: Maps, with masked rows set to zero.
    params: Dictionary with "kernel" `[height, width, inputs, outputs]` and, optionally,
      "scale" and "bias" `[outputs]`.
    name: Name of the layer, for error messages.
    mask: True for real rows. Statistics of a normalisation are over these.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    ValueError: If the kernel does not fit.
  """
  kernel = jnp.asarray(params["kernel"]).astype(maps.dtype)
  fitting = (*kernel.shape[:2], maps.shape[-1], kernel.shape[-1])
  checks.check_shape(f"{name} kernel", kernel, fitting)
  product = lax.conv_general_dilated(
    maps,
    kernel,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=lax.Precision.HIGHEST,
  )
  return _normalized_or_offset(product, params, mask, axis_name)


def resizing_shape(
  student_shape: Sequence[int], teacher_shape: Sequence[int]
) -> tuple[int, ...]:
  """Shape of the kernel that maps student maps to the size of the teacher's maps.

  It is 3 x 3 with stride 2 if the student's maps have twice the size, and 4 x 4
  transposed if they have half the size. Otherwise it is as large as the difference of
  the sizes plus 1, without padding.

  Args:
    student_shape: Shape of the student maps.
    teacher_shape: Shape of the teacher maps.

  Raises:
    ValueError: If the student's maps are smaller and do not have half the size.
  """
  ours, theirs = tuple(student_shape[-3:-1]), tuple(teacher_shape[-3:-1])
  channels = student_shape[-1], teacher_shape[-1]
  if _ratio(ours, theirs) == 2:
    return (3, 3, *channels)
  if _ratio(ours, theirs) == 0.5:
    return (4, 4, *channels)
  sides = tuple(1 + one - other for one, other in zip(ours, theirs, strict=True))
  if len(sides) != 2 or min(sides) < 1:
    raise ValueError(
      "student: expected maps of the size of the teacher's, larger, or half as large, "
      f"got shape {tuple(student_shape)}, and the teacher has {tuple(teacher_shape)}; "
      "use the linear map, before which the larger map is pooled"
    )
  return (*sides, *channels)


def resizing_convolution(
  maps: Float[Array, "batch height width inputs"],
  params: Mapping[str, Any],
  target_shape: Sequence[int],
  *,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, "batch target_height target_width outputs"]:
  """Convolution from the student's maps to the size of the teacher's maps.

  `resizing_shape` has the shape of its kernel.

  Args:
    maps: Maps, with masked rows set to zero.
    params: Dictionary with "kernel" and, optionally, "scale" and "bias" `[outputs]`.
    target_shape: Shape of the teacher maps.
    mask: True for real rows. Statistics of a normalisation are over these.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    ValueError: If the kernel does not fit the maps.
  """
  kernel = jnp.asarray(params["kernel"]).astype(maps.dtype)
  checks.check_shape("params kernel", kernel, resizing_shape(maps.shape, target_shape))
  ratio = _ratio(maps.shape[1:3], tuple(target_shape[1:3]))
  # As in PyTorch: padding 1 with stride 2. A transposed 4 x 4 convolution with stride 2
  # and padding 1 equals a convolution of the dilated map with padding 4 - 1 - 1 = 2.
  padding = {2: 1, 0.5: 2}.get(ratio, 0)
  product = lax.conv_general_dilated(
    maps,
    kernel,
    window_strides=(2, 2) if ratio == 2 else (1, 1),
    padding=[(padding, padding)] * 2,
    lhs_dilation=(2, 2) if ratio == 0.5 else (1, 1),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=lax.Precision.HIGHEST,
  )
  return _normalized_or_offset(product, params, mask, axis_name)


def check_kernel(
  name: str, kernel: Any, student: Features | None, teacher: Features | None
) -> None:
  """Raises unless a matrix fits the channels of the sides that are not None."""
  expected = tuple(
    jnp.shape(kernel)[axis] if side is None else side.shape[-1]
    for axis, side in enumerate((student, teacher))
  )
  checks.check_shape(f"{name} kernel", kernel, expected)


def batch_normalized(features: Features, mask: Mask, axis_name: str | None) -> Features:
  """Features with mean 0 and variance 1 per channel over the global batch.

  The moments are over real rows. The variance is the biased one plus `EPSILON`. Large
  channels are divided by a unit, so that no square overflows. Channels below 1 are not.
  """
  axes = tuple(range(features.ndim - 1))
  shape = features.shape[-1:]
  real = _real_positions(features, mask)
  count = parallel.global_sum(real.sum(), axis_name)
  # A mask of rows has one entry for all positions of a row.
  count = count * (features.size // shape[0] // real.size)
  count = jnp.maximum(count, 1)
  largest = jnp.abs(lax.stop_gradient(jnp.where(real, features, 0))).max(axes)
  if axis_name is not None:
    # `global_sum` above has checked the axis. The error of `lax.pmax` would not name
    # the argument `axis_name`.
    largest = lax.pmax(largest, axis_name)
  unit = units_of_large(largest)

  def mean(values):
    total = jnp.where(real, values, 0).sum(axes)
    return _per_channel(parallel.global_sum(total, axis_name) / count, values)

  scaled = features / _per_channel(unit, features)
  centred = scaled - mean(scaled)
  epsilon = epsilon_in(unit, EPSILON)
  # The variance is computed around the mean: a difference of mean squares would lose
  # its digits for channels with a large mean.
  return centred * lax.rsqrt(mean(centred**2) + _per_channel(epsilon, features))


def units_of_large(largest: Float[Array, "..."]) -> Float[Array, "..."]:
  """Units in which the squares of values up to `largest` do not overflow, at least 1.

  Args:
    largest: Largest magnitudes. They must be constants to the gradient.
  """
  unit = jnp.maximum(float32.power_of_two(largest), 1)
  return jnp.where(jnp.isfinite(unit), unit, 1)


def epsilon_in(unit: Float[Array, "..."], epsilon: float) -> Float[Array, "..."]:
  """Epsilon of a variance in squared units. It is never rounded to zero."""
  least = float(jnp.finfo(unit.dtype).tiny) ** 0.5
  return jnp.maximum(epsilon / unit**2, least)


def _ratio(ours, theirs):
  """Ratio of two sizes: 2 for twice the size, 0.5 for half the size, otherwise 1."""
  if ours == tuple(2 * side for side in theirs):
    return 2
  return 0.5 if theirs == tuple(2 * side for side in ours) else 1


def _real_positions(features, mask):
  """Weights of positions, 1 for real and 0 for masked, that broadcast to features."""
  if mask is None:
    return jnp.ones((features.shape[0],) + (1,) * (features.ndim - 1), features.dtype)
  real = jnp.asarray(mask).astype(bool).astype(features.dtype)
  return real.reshape(real.shape + (1,) * (features.ndim - real.ndim))


def _normalized_or_offset(product, params, mask, axis_name):
  if params.get("scale") is not None:
    product = batch_normalized(product, mask, axis_name)
    scale = jnp.asarray(params["scale"]).astype(product.dtype)
    product = product * _per_channel(scale, product)
  if params.get("bias") is not None:
    bias = jnp.asarray(params["bias"]).astype(product.dtype)
    product = product + _per_channel(bias, product)
  return product


def _per_channel(values, features):
  return values.reshape((1,) * (features.ndim - 1) + (-1,))

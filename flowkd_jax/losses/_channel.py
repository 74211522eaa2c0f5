"""Losses on the channels of maps: positions of activity, and correlations of channels.

These losses compare each example with itself only. Channel i of the student is compared
with channel i of the teacher. If their numbers of channels differ, a learnt projection
maps the student to the teacher's channels (`_projection`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _log_probabilities
from flowkd_jax.losses import _projection
from flowkd_jax.losses import _spatial

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
DISTRIBUTIONS = ("positions", "channels")


@meshes.on_any_mesh
def channel_wise_distillation(
  student: Float[Array, "batch student_height student_width student_channels"],
  teacher: Float[Array, "batch teacher_height teacher_width teacher_channels"],
  *,
  params: Parameters | None = None,
  temperature: float = 4.0,
  softmax_over: str = "positions",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Channel-wise distillation: divergence of each channel's distribution of positions.

  `T^2 mean_ic sum_p t_icp log(t_icp / s_icp)`, where `t_ic` and `s_ic` are the softmax
  of channel c of example i over its positions p at temperature T (Shu et al. 2021). The
  loss is 0 or above. It depends neither on the batch size nor on the number of
  channels. It is invariant to a constant added to a channel, and to a permutation of
  channels or positions common to both sides.

  With `softmax_over="channels"` the softmax is over the channels of each position, and
  the mean is over positions. This is pixel-wise distillation, a baseline of the paper.

  The authors train with T = 4 and weight 3 on logits of segmentation, and with weight
  50 on features. If the channels differ, ports use a 1 x 1 convolution, like `params`
  here. Differs from the authors' code, which takes the logarithm of a softmax: it is
  minus infinity for logits far below the largest, and here it is finite.

  Args:
    student: Student maps.
    teacher: Teacher maps. The larger map is average-pooled to the smaller size.
    params: Projection from `hint_init`, trained together with the student. If None, the
      channels are compared without a projection.
    temperature: Temperature T of the softmax, above 0.
    softmax_over: Axis of the softmax, "positions" (the paper) or "channels".
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is not a map, batches or channels disagree, `temperature` is
      not positive, or `softmax_over` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> float(channel_wise_distillation(maps, maps + 3))
    0.0

  References:
    Shu et al., "Channel-wise knowledge distillation for dense prediction", ICCV 2021.
  """
  checks.check_positive("temperature", temperature)
  checks.check_choice("softmax_over", softmax_over, DISTRIBUTIONS)
  features = student, teacher
  student, teacher = _spatial.paired_maps(student, teacher, mask)
  student = _projection.projected(
    student, teacher, params, "hint_init", mask=mask, axis_name=axis_name
  )
  scale = jnp.asarray(temperature).astype(student.dtype)
  axis = 1 if softmax_over == "positions" else 2
  logs = [_log_shares(side, scale, axis) for side in (student, teacher)]
  rows = _log_probabilities.relative_entropy(*logs).sum(axis).mean(1)
  return scale**2 * parallel.global_mean(rows, mask, axis_name, *features)


def ickd_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
) -> Parameters:
  """A batch-normalised linear map between the channels, for `ickd`.

  Args:
    key: Random key.
    student_shape: Shape of the student maps. Only the number of channels is used.
    teacher_shape: Shape of the teacher maps.

  Returns:
    `{"kernel": [student_channels, teacher_channels], "scale": [teacher_channels],
    "bias": [teacher_channels]}` in float32.
  """
  return _projection.normalized_init(key, student_shape[-1], teacher_shape[-1])


@meshes.on_any_mesh
def ickd(
  student: Float[Array, "batch student_height student_width student_channels"],
  teacher: Float[Array, "batch teacher_height teacher_width teacher_channels"],
  *,
  params: Parameters | None = None,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Inter-channel correlation (ICKD): inner products of each channel with all others.

  `mean_ic |g_ic^s - g_ic^t|^2`, where `g_ic` is row c of the Gram matrix `F_i' F_i` of
  the channels of example i over its positions, divided by its norm (Liu et al. 2021).
  The loss is between 0 and 4. It depends neither on the batch size nor on the numbers
  of channels and positions. It is invariant to the scale of each example and to a
  permutation of the positions of either side. Maps may differ in size.

  As in the authors' code for classification, the student's channels go through a 1 x 1
  convolution and batch normalisation, and the teacher's channels are unchanged. Differs
  from the authors' code: the normalisation always uses the statistics of the batch, and
  the authors' layer uses running averages in evaluation. torchdistill divides by the
  batch size twice. The paper's variant for segmentation, which splits maps into a grid,
  is not implemented. A channel that is zero everywhere has correlations of zero, with a
  gradient of zero.

  Args:
    student: Student maps.
    teacher: Teacher maps, of any size.
    params: Projection from `ickd_init`, trained together with the student. If None, the
      channels are compared without a projection.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is not a map, or batches or channels disagree.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = jnp.eye(4).reshape(1, 2, 2, 4)
    >>> float(ickd(maps, 3 * maps))
    0.0

  References:
    Liu et al., "Exploring inter-channel correlation for diversity-preserved knowledge
    distillation", ICCV 2021.
  """
  checks.check_maps(student=student, teacher=teacher)
  checks.check_mask(mask, student)
  features = student, teacher
  student, teacher = (_spatial.zero_masked(side, mask) for side in features)
  student = _projection.projected(
    student, teacher, params, "ickd_init", mask=mask, axis_name=axis_name
  )
  gaps = jnp.subtract(*map(_channel_correlations, (student, teacher)))
  rows = (gaps**2).sum(2).mean(1)
  return parallel.global_mean(rows, mask, axis_name, *features)


def _log_shares(maps, temperature, axis):
  """Logarithms of a softmax over the positions (axis 1) or the channels (axis 2)."""
  batch, _, _, channels = maps.shape
  # Neither a finite activation nor a difference of two becomes infinite.
  largest = float(jnp.finfo(maps.dtype).max) / 4
  logits = jnp.clip(maps.reshape(batch, -1, channels) / temperature, -largest, largest)
  return jax.nn.log_softmax(logits, axis=axis)


def _channel_correlations(maps):
  """Rows of the Gram matrix of each example's channels, divided by their norms."""
  batch, _, _, channels = maps.shape
  positions = _spatial.rescaled(maps.reshape(batch, -1)).reshape(batch, -1, channels)
  products = jnp.einsum(
    "bpi,bpj->bij", positions, positions, precision=lax.Precision.HIGHEST
  )
  return kernels.unit_rows(products.reshape(-1, channels)).reshape(products.shape)

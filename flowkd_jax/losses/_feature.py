"""Losses that compare features entry by entry, after a learnt map between the widths.

The learnt parameters are an explicit pytree. The caller makes it with the `_init`
function of the loss, trains it together with the student and passes it to the loss.
Maps have channels last.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import renamed
from flowkd_jax.losses import _projection
from flowkd_jax.losses import _spatial

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]


def hint_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
  *,
  convolution: bool = False,
) -> Parameters:
  """Map from the student's channels to the teacher's, for `hint`.

  Args:
    key: Random key.
    student_shape: Shape of the student features. A linear map uses only the last axis,
      a convolution uses height and width too.
    teacher_shape: Shape of the teacher features.
    convolution: Make the regressor of RepDistiller in place of a linear map. It is a
      convolution with batch normalisation that also changes the size of the map: 3 x 3
      with stride 2 if the student's map has twice the teacher's size, 4 x 4 and
      transposed if it has half the size, and otherwise without padding and as large as
      the difference of the sizes requires.

  Returns:
    `{"kernel": [student_channels, teacher_channels], "bias": [teacher_channels]}` in
    float32. The kernel is drawn from a truncated normal distribution of variance
    `1 / student_channels`. For a convolution the kernel is `[height, width,
    student_channels, teacher_channels]` with the variance `2 / inputs`, and there is a
    "scale" `[teacher_channels]` too.

  Raises:
    ValueError: If a convolution would enlarge maps by another factor than 2.
  """
  if convolution:
    kernel_shape = _projection.resizing_shape(student_shape, teacher_shape)
    kernel = jax.nn.initializers.he_normal()(key, kernel_shape, jnp.float32)
    channels = teacher_shape[-1]
    return {"kernel": kernel, "scale": jnp.ones(channels), "bias": jnp.zeros(channels)}
  shape = student_shape[-1], teacher_shape[-1]
  kernel = jax.nn.initializers.lecun_normal()(key, shape, jnp.float32)
  return {"kernel": kernel, "bias": jnp.zeros(shape[1])}


@renamed.renamed_arguments(projection="params")
@meshes.on_any_mesh
def hint(
  student: Float[Array, "batch ... student_channels"],
  teacher: Float[Array, "batch ... teacher_channels"],
  *,
  params: Parameters | None = None,
  rectify: bool = False,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Hint: squared distance between teacher features and projected student features.

  `mean_i |t_i - r(s_i)|^2` (Romero et al. 2015, without the factor 1/2). The regressor
  r is linear in the channels, which is a 1 x 1 convolution on maps. The loss does not
  depend on the batch size. It grows with the square of the scale and with the width,
  but with `reduction="elements"` not with the width. Without `params` it is invariant
  to a rotation or a shift common to both sides, and to a permutation of rows.

  Differs from the paper: its regressor is a larger convolution that also reduces the
  size of the map. Here the larger map is average-pooled to the smaller size, unless
  `hint_init(convolution=True)` makes a convolution. RepDistiller and mdistiller
  implement FitNets with this convolution, `rectify=True` and `reduction="elements"`.
  The batch normalisation of the convolution here always uses the statistics of the
  batch.

  The paper trains in two stages: first the layers up to the hint with this loss alone,
  then the network by distillation without a hint. The ports train jointly, by adding
  this loss to others. `reduction="elements"` is the mean squared error of the ports.

  Args:
    student: Student features: vectors, tokens or maps.
    teacher: Teacher features of the same rank. Maps may differ in size.
    params: Regressor from `hint_init`, trained together with the student. For a fixed
      regressor pass any `{"kernel": ...}`, with or without a "bias", under
      `stop_gradient`. If None, the features are compared without a regressor.
    rectify: Apply a rectifier after the regressor, for teacher features after a ReLU.
    reduction: "rows" is the mean over rows of the sum over all other axes. "elements"
      is the mean over all axes.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches, ranks, token counts or widths disagree, a kernel does not
      fit, or `reduction` is unknown.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.ones((4, 2)), jnp.ones((4, 3))
    >>> params = hint_init(jax.random.key(0), student.shape, teacher.shape)
    >>> hint(student, teacher, params=params).shape
    ()
    >>> float(hint(2 * teacher, teacher))
    3.0

  References:
    Romero et al., "FitNets: hints for thin deep nets", ICLR 2015.
  """
  features = student, teacher
  if params is not None and np.ndim(params["kernel"]) == 4:
    checks.check_maps(student=student, teacher=teacher)
    checks.check_mask(mask, student)
    student, teacher = (_spatial.zero_masked(side, mask) for side in features)
    student = _projection.resizing_convolution(
      student, params, teacher.shape, mask=mask, axis_name=axis_name
    )
  else:
    student, teacher = _projection.paired_features(student, teacher, mask)
    student = _projection.projected(
      student, teacher, params, "hint_init", mask=mask, axis_name=axis_name
    )
  student = jax.nn.relu(student) if rectify else student
  terms = (student - teacher) ** 2
  return _spatial.reduced(terms, reduction, mask, axis_name, *features)


def vid_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
  *,
  hidden: int | None = None,
  variance: float = 5.0,
  epsilon: float = 1e-5,
) -> Parameters:
  """Mean network and variances of `vid`.

  Args:
    key: Random key.
    student_shape: Shape of the student features. Only the last axis is used.
    teacher_shape: Shape of the teacher features.
    hidden: Number of channels between the three layers. The default is the number of
      the teacher's channels.
    variance: Initial variance of every channel. The authors' code has 5.
    epsilon: Smallest variance. Pass the same value to `vid`.

  Returns:
    `{"kernels": three matrices, "variance": [teacher_channels]}` in float32. The
    variance of a channel is `softplus(params["variance"]) + epsilon`.

  Raises:
    ValueError: If `variance` is not above `epsilon`, or `hidden` is below 1.
  """
  hidden = teacher_shape[-1] if hidden is None else hidden
  checks.check_count("hidden", hidden)
  checks.check_positive("variance - epsilon", variance - epsilon)
  widths = student_shape[-1], hidden, hidden, teacher_shape[-1]
  initializer = jax.nn.initializers.he_normal()
  kernels = [
    initializer(layer_key, widths[layer : layer + 2], jnp.float32)
    for layer, layer_key in enumerate(jax.random.split(key, 3))
  ]
  # The inverse of softplus, log(exp(x) - 1), in a form that does not overflow.
  raw_variance = variance - epsilon + np.log(-np.expm1(epsilon - variance))
  return {"kernels": kernels, "variance": jnp.full(widths[-1], raw_variance, "float32")}


@renamed.renamed_arguments(parameters="params")
@meshes.on_any_mesh
def vid(
  student: Float[Array, "batch ... student_channels"],
  teacher: Float[Array, "batch ... teacher_channels"],
  *,
  params: Parameters,
  epsilon: float = 1e-5,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Variational information distillation: likelihood of the teacher's features.

  `mean_i sum_n (t_in - mu_n(s_i))^2 / (2 v_c) + log(v_c) / 2` is the negative logarithm
  of a Gaussian likelihood, up to a constant. Its mean mu is a network of the student's
  features, and its variance `v_c = softplus(alpha_c) + epsilon` is learnt for each
  channel c of the teacher (Ahn et al. 2019). The negative loss is a lower bound of the
  mutual information between both sides, up to a constant. The loss may be negative. It
  does not depend on the batch size. It grows with the number of teacher features,
  except with `reduction="elements"`. It is invariant to a permutation of rows, and of
  positions common to both sides.

  The mean network has three 1 x 1 convolutions without bias and rectifiers between
  them, as in RepDistiller, which has it from the authors. For logits the paper uses one
  linear layer. `reduction="elements"` is the value of the ports. They compare only the
  heights of maps to decide on pooling.

  Args:
    student: Student features: vectors, tokens or maps.
    teacher: Teacher features of the same rank. Maps may differ in size.
    params: Mean network and variances from `vid_init`, trained together with the
      student.
    epsilon: Smallest variance. Pass the same value to `vid_init`.
    reduction: "rows" is the mean over rows of the sum over all other axes. "elements"
      is the mean over all axes.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches, ranks, token counts or widths disagree, `epsilon` is not
      positive, or `reduction` is unknown.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.ones((4, 2)), jnp.zeros((4, 3))
    >>> params = vid_init(jax.random.key(0), student.shape, teacher.shape)
    >>> round(float(vid(0 * student, teacher, params=params)), 4)
    2.4142

  References:
    Ahn et al., "Variational information distillation for knowledge transfer",
    CVPR 2019.
  """
  checks.check_positive("epsilon", epsilon)
  features = student, teacher
  student, teacher = _projection.paired_features(student, teacher, mask)
  first, *others = params["kernels"]
  last = others[-1] if others else first
  _projection.check_kernel("params", first, student, None)
  _projection.check_kernel("params", last, None, teacher)
  mean = _projection.linear(student, {"kernel": first})
  for kernel in others:
    mean = _projection.linear(jax.nn.relu(mean), {"kernel": kernel})
  raw_variance = jnp.asarray(params["variance"]).astype(mean.dtype)
  variance = jax.nn.softplus(raw_variance) + float32.like(epsilon, mean)
  variance = jnp.broadcast_to(variance, mean.shape)
  terms = (teacher - mean) ** 2 / (2 * variance) + jnp.log(variance) / 2
  return _spatial.reduced(terms, reduction, mask, axis_name, *features)

"""SimKD (Chen et al., "Knowledge distillation with the reused teacher classifier").

CVPR 2022, https://arxiv.org/abs/2203.14001. A projector P maps the student's last map
to the teacher's last map. The loss compares nothing else:

    L = mean (P(s) - t)^2

Labels and logits are not used. Inference reuses the teacher's classifier: the exported
network is the student up to its last map, the projector, the mean over the map, and the
linear layer of the teacher. The projector is a bottleneck of 1x1, 3x3 and 1x1
convolutions, each followed by BatchNorm and ReLU. It is part of the exported network,
so its BatchNorm keeps running averages. The larger of the two maps is average-pooled to
the size of the smaller. The student's own classifier receives no gradient.

The projector ends in a ReLU, so the teacher's map must come after a ReLU. The last map
of pre-activation networks does not; their classifier reads a later map.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax import _taps
from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import models
from flowkd_jax import pooling
from flowkd_jax._numerics import checks
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _method
from flowkd_jax.methods import _optimizers
from flowkd_jax.methods import _reused_classifier
from flowkd_jax.teacher_cache import RecordedTeacher

Maps = Float[Array, "batch height width channels"]


class Projector(nn.Module):
  """Three convolutions of 1x1, 3x3 and 1x1, each with BatchNorm and ReLU.

  Attributes:
    channels: Channels of the teacher's map.
    factor: Divisor of the channels in between.
    axis_name: Mapped axis over which BatchNorm takes statistics in training.
  """

  channels: int
  factor: int = 2
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Maps,
    size: tuple[int, ...],
    train: bool = False,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Maps:
    """Maps with the teacher's channels.

    Args:
      x: The student's maps.
      size: Height and width of the teacher's maps; larger maps are pooled to them.
      train: True if BatchNorm uses (and records) the statistics of the batch.
      mask: Mask of valid rows; None if all are valid.
    """
    height, width = (min(pair) for pair in zip(x.shape[1:3], size, strict=True))
    x = pooling.average_pool(x, height, width)
    inner = max(self.channels // self.factor, 1)
    layers = (inner, 1), (inner, 3), (self.channels, 1)
    for i, (channels, side) in enumerate(layers, start=1):
      x = nn.Conv(channels, (side, side), use_bias=False, name=f"conv_{i}")(x)
      norm = models.BatchNorm(axis_name=self.axis_name, name=f"norm_{i}")
      x = nn.relu(norm(x, train=train, mask=mask))
    return x


def simkd(
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  pairs: Mapping[str, str],
  classifier: _reused_classifier.Classifier = None,
  factor: int = 2,
  params_optimizer: optax.GradientTransformation | None = None,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation by the reused classifier of the teacher.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode. Its logits must be a linear layer of the
      mean over its tap; `check` of the method applies the teacher once to verify this.
    optimizer: Optimizer of the student.
    pairs: One pair, the student's last map and the teacher's last map after a ReLU,
      such as `{"f3": "f3"}` for the ResNets of the benchmark.
    classifier: Linear layer of the teacher: the path of the layer in the teacher's
      parameters, such as "body/classifier"; or its kernel `[teacher channels, classes]`
      and its bias `[classes]`. None finds the only layer with the name "classifier",
      which the networks of `flowkd_jax.models` have.
    factor: Divisor of the number of channels inside the projector.
    params_optimizer: Optimizer of the projector. By default the same transformation as
      for the student, with a state of its own.
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
      The projector is part of the loss: its BatchNorm reads the whole batch.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    TypeError: If `pairs` is not a mapping from names to names, or `factor` is not a
      whole number.
    ValueError: If `pairs` does not have exactly one pair, `factor` is below 1, or the
      classifier is not found or is not a linear layer.
  """
  _taps.check_pairs(pairs)
  if len(pairs) != 1:
    raise ValueError(
      f"pairs: expected one pair, the last maps of both networks, got {len(pairs)}"
    )
  checks.check_count("factor", factor)
  ((tap, teacher_tap),) = pairs.items()
  layer = _reused_classifier.found_classifier(
    teacher.variables.get("params", {}), classifier
  )
  channels, num_classes = layer["kernel"].shape
  projector = Projector(channels, factor, axis_name)
  size_of = functools.partial(_map_size, teacher, teacher_tap)
  network = _reused_classifier.ReusedClassifier(
    student, tap, projector, size_of, channels, num_classes
  )

  def fresh(key, student_shapes, teacher_shapes):
    maps = jnp.zeros((1, *student_shapes[tap][1:]))
    return projector.init(key, maps, teacher_shapes[teacher_tap][1:3])

  def terms(student, teacher, batch, params, state):
    target = teacher.taps[teacher_tap]
    maps, updated = projector.apply(
      {"params": params, "batch_stats": state},
      student.taps[tap],
      target.shape[1:3],
      train=True,
      mask=batch["mask"],
      mutable=["batch_stats"],
    )
    options = {"mask": batch["mask"], "axis_name": axis_name}
    value = losses.hint(maps, target, reduction="elements", **options)
    return {"map": value}, updated["batch_stats"]

  method = _distillation.distillation(
    student,
    teacher,
    optimizer,
    terms=terms,
    weights={"map": 1.0},
    taps=((tap,), (teacher_tap,)),
    params=_distillation.LossParams(
      lambda *arguments: fresh(*arguments)["params"],
      params_optimizer,
      lambda *arguments: fresh(*arguments)["batch_stats"],
    ),
    initial=initial,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )

  def export(state):
    own = method.export(state)["network"].variables
    trained = _optimizers.evaluated(
      params_optimizer or optimizer, state.opt_state["learnt"], state.params["learnt"]
    )
    beside = {
      "params": trained,
      "batch_stats": state.collections[_distillation.LOSS_STATE],
    }
    return {
      "network": _method.Network(network, _reused_classifier.joined(own, beside, layer))
    }

  def check(images, classes):
    rows = _heads.row_shapes(student, initial, images, taps=[tap])[tap]
    _check_map("student", tap, rows)
    rows = _heads.row_shapes(*teacher, images, taps=[teacher_tap])[teacher_tap]
    _check_map("teacher", teacher_tap, rows)
    if rows[2] != channels:
      raise ValueError(
        f"classifier: expected as many inputs as the teacher's tap {teacher_tap} has "
        f"channels, {rows[2]}, got {channels}; name the last map, or another layer"
      )
    _heads.check_labels("classifier", num_classes, classes)
    _check_reusable(teacher, teacher_tap, layer, images.shape)

  return _method.also_checked(method._replace(export=export), check)


def _check_map(name, tap, shape):
  if len(shape) != 3:
    raise ValueError(
      f"pairs: expected a map [batch, height, width, channels] of the {name}, got rows "
      f"of shape {shape} in its tap {tap}"
    )


def _check_reusable(teacher, tap, layer, image_shape):
  """Raise ValueError unless the logits are the layer of the mean over the tap."""
  if isinstance(teacher.model, RecordedTeacher):
    return
  images = jax.random.normal(jax.random.key(0), (2, *image_shape[1:]))

  @jax.jit
  def both(variables, layer):
    logits, taps = capture.apply_with_taps(teacher.model, variables, images, taps=[tap])
    return logits, _reused_classifier.classified(taps[tap].mean((1, 2)), layer)

  logits, reused = (np.asarray(x) for x in both(teacher.variables, layer))
  largest = np.abs(logits).max()
  if logits.shape != reused.shape or np.abs(logits - reused).max() > 0.05 * largest:
    raise ValueError(
      f"classifier: expected the teacher's logits to be this layer of the mean over "
      f"its tap {tap}, got other values; name the map after the last ReLU, or another "
      "layer"
    )


def _map_size(teacher, tap, image_shape):
  images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
  model, variables = teacher
  return capture.tap_shapes(model, variables, images, taps=[tap])[tap][1:3]

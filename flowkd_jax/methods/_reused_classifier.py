"""Student network with a projector and the teacher's classifier, for SimKD."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key

from flowkd_jax import _taps
from flowkd_jax import capture
from flowkd_jax._numerics import checks

# Path of a layer, or its kernel and bias. None finds the layer by its name.
Classifier = str | tuple[Array, Array] | None
_NAME = "classifier"


@dataclasses.dataclass(frozen=True)
class ReusedClassifier:
  """Student up to its last map, projector and linear classifier, as one model.

  It is a `capture.Model`. The collection "params" has the entries "student",
  "projector" and "classifier". The other collections of student and projector are in
  "student" and "projector". The taps are "projected", the projected map, and "pooled",
  the input of the classifier.

  Attributes:
    student: The student network.
    tap: Tap of the student's last map.
    projector: Projector; called with the student's map and the size of the teacher's.
    size_of: Function from the shape of the images to height and width of the teacher's
      map.
    channels: Number of inputs of the classifier.
    num_classes: Number of logits.
    taps: See `capture.Model`.
    pool: See `capture.Model`.
    logits: See `capture.Model`.
  """

  student: capture.AnyModel
  tap: str
  projector: nn.Module
  size_of: Callable[[tuple[int, ...]], tuple[int, ...]]
  channels: int
  num_classes: int
  taps: Any = ("projected", "pooled")
  pool: Any = None
  logits: Any = None

  @property
  def name(self) -> str:
    """Name of the network in messages."""
    return f"SimKD({capture.adapt(self.student).name})"

  def init(self, key: Key[Array, ""], images: Array) -> dict[str, Any]:
    """Fresh variables of all parts, including the classifier."""
    own = capture.init(self.student, key, images)
    shape = capture.tap_shapes(self.student, own, images, taps=[self.tap])[self.tap]
    beside = self.projector.init(
      jax.random.fold_in(key, 2), jnp.zeros((1, *shape[1:])), self.size_of(images.shape)
    )
    kernel = nn.initializers.lecun_normal()(
      jax.random.fold_in(key, 3), (self.channels, self.num_classes)
    )
    layer = {"kernel": kernel, "bias": jnp.zeros(self.num_classes)}
    return joined(own, beside, layer)

  def apply(self, variables, images, *, is_wanted, train, mask, rngs, mutable):
    """See `capture.Model`."""
    params = variables["params"]
    own = {"params": params["student"], **variables.get("student", {})}
    kept = [name for name in own if name != "params"] if "student" in mutable else []
    output = capture.apply_with_taps(
      self.student,
      own,
      images,
      taps=[self.tap],
      train=train,
      mask=mask,
      rngs=rngs,
      mutable=kept,
    )
    (_, taps), updated = output if kept else (output, {})
    beside = {"params": params["projector"], **variables["projector"]}
    maps, stats = self.projector.apply(
      beside,
      taps[self.tap],
      self.size_of(images.shape),
      train=train,
      mask=mask,
      mutable=["batch_stats"],  # unchanged outside training
    )
    maps = _marked(maps, "projected", is_wanted)
    pooled = _marked(maps.mean((1, 2)), "pooled", is_wanted)
    layer = params[_NAME]
    logits = classified(pooled, layer)
    new = {"student": updated, "projector": dict(stats)}
    return logits, {name: new[name] for name in mutable if name in new}


def found_classifier(
  params: Mapping[str, Any], classifier: Classifier
) -> dict[str, Array]:
  """Find "kernel" and "bias" of the teacher's linear layer.

  Args:
    params: Parameters of the teacher.
    classifier: Path, arrays or None, as in `simkd`.

  Raises:
    ValueError: If there is no such layer, or several, or it is not linear.
  """
  if isinstance(classifier, tuple | list):
    if len(classifier) != 2:
      raise ValueError(
        f"classifier: expected a kernel and a bias, got {len(classifier)} entries"
      )
    return _checked_layer(
      "given", dict(zip(("kernel", "bias"), classifier, strict=True))
    )
  layers = dict(_layers(params, ()))
  names = [name for name in layers if name.split("/")[-1] == _NAME]
  if classifier is None and len(names) == 1:
    return _checked_layer(names[0], layers[names[0]])
  if classifier in layers:
    return _checked_layer(classifier, layers[classifier])
  wanted = f'"{classifier}"' if classifier else f'one layer called "{_NAME}"'
  raise ValueError(
    f"classifier: expected {wanted} among the teacher's layers, got "
    f"{_taps.listed(sorted(layers)) or 'none'}; give the path of its last layer, or "
    "its kernel and bias"
  )


def _layers(params, path):
  """All dictionaries that hold a kernel, with their paths."""
  for name, inner in params.items():
    if isinstance(inner, Mapping):
      if "kernel" in inner:
        yield "/".join((*path, name)), inner
      yield from _layers(inner, (*path, name))


def _checked_layer(name, layer):
  shape = jnp.shape(layer["kernel"])
  if len(shape) != 2:
    raise ValueError(
      f"classifier: expected a kernel [channels, classes], got shape {shape} in {name}"
    )
  bias = layer.get("bias")
  bias = jnp.zeros(shape[1]) if bias is None else bias
  checks.check_shape("classifier bias", bias, shape[1:])
  return {"kernel": jnp.asarray(layer["kernel"]), "bias": jnp.asarray(bias)}


def classified(
  pooled: Float[Array, "batch channels"], layer: Mapping[str, Array]
) -> Float[Array, "batch classes"]:
  """Logits of a linear layer applied to a pooled map.

  Args:
    pooled: Input of the layer.
    layer: "kernel" and "bias" of the layer.
  """
  pooled = pooled.astype(layer["kernel"].dtype)
  return jnp.matmul(pooled, layer["kernel"]) + layer["bias"][None, :]


def joined(
  own: Mapping[str, Any], beside: Mapping[str, Any], layer: Mapping[str, Array]
) -> dict[str, Any]:
  """Variables of the whole model from the variables of its parts.

  Args:
    own: Variables of the student.
    beside: Variables of the projector.
    layer: "kernel" and "bias" of the classifier.
  """
  state = {name: value for name, value in own.items() if name != "params"}
  parts = {"student": own["params"], "projector": beside["params"], _NAME: layer}
  variables = {"params": parts, "projector": {"batch_stats": beside["batch_stats"]}}
  return variables | ({"student": state} if state else {})


def _marked(value, name, is_wanted):
  return capture.tag(value, name, sown=True) if is_wanted(name, True) else value

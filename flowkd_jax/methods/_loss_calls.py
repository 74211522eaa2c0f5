"""Adapters that call a loss with the outputs that it reads.

A loss may read logits, pairs of taps, lists of taps or a state. Each function takes a
loss and a `Call`, which holds the outputs of a step.
"""

from typing import Any
from typing import NamedTuple

import jax
from jaxtyping import Array
from jaxtyping import Key

from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics import equal_shapes
from flowkd_jax._numerics import float32
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _method
from flowkd_jax.methods import _targets


class Call(NamedTuple):
  """Inputs of a loss at a step.

  Attributes:
    student: Outputs of the student.
    teacher: Outputs of the teacher.
    pairs: Pairs of a student tap and its teacher tap; empty for losses of logits.
    batch: Rows of this device.
    params: Learnt parameters of each pair, in the order of the pairs.
    state: State of the loss for each pair.
    options: Keyword arguments of the loss, with `mask` and `axis_name`.
    key: Random key of the step, the same on all devices.
  """

  student: _distillation.Outputs
  teacher: _distillation.Outputs
  pairs: tuple[tuple[str, str], ...]
  batch: _method.Batch
  params: tuple[Any, ...]
  state: tuple[Any, ...]
  options: dict[str, Any]
  key: Key[Array, ""]

  def features(self) -> list[tuple[Array, Array]]:
    """Student and teacher features of each pair."""
    return [
      (
        _targets.output(self.student, self.batch["label"], ours),
        _targets.output(self.teacher, self.batch["label"], theirs),
      )
      for ours, theirs in self.pairs
    ]


def logits(function, call):
  return function(call.student.logits, call.teacher.logits, **call.options)


def labelled_logits(function, call):
  labels = call.batch["label"]
  return function(
    call.student.logits, call.teacher.logits, labels=labels, **call.options
  )


def each_pair(function, call):
  """Sum over the pairs, as the published implementations sum over layers."""
  found = equal_shapes.map_by_shape(
    lambda student, teacher: function(student, teacher, **call.options),
    *map(list, zip(*call.features(), strict=True)),
  )
  return sum(found[1:], found[0])


def each_pair_learnt(function, call):
  found = [
    function(student, teacher, params=params, **call.options)
    for (student, teacher), params in zip(call.features(), call.params, strict=True)
  ]
  return sum(found[1:], found[0])


def each_pair_masked(function, call):
  """Sum over the pairs, for losses that draw a random mask of features."""
  keys = jax.random.split(call.key, len(call.pairs))
  found = [
    function(student, teacher, params=params, key=key, **call.options)
    for (student, teacher), params, key in zip(
      call.features(), call.params, keys, strict=True
    )
  ]
  return sum(found[1:], found[0])


def all_pairs_learnt(function, call):
  student, teacher = map(list, zip(*call.features(), strict=True))
  return function(student, teacher, params=call.params[0], **call.options)


def queue_init(key, num_examples, *, size=16384, width=128):
  del num_examples
  return losses.rrd_queue_init(key, size, width=width)


def queued(function, call):
  """Sum over the pairs; each pair has its own queue."""
  shared = {name: call.options[name] for name in ("mask", "axis_name")}
  found, kept = [], []
  for sides, params, queue in zip(
    call.features(), call.params, call.state, strict=True
  ):
    inputs = {"params": params, "queue": queue}
    found.append(function(*sides, **inputs, **call.options))
    kept.append(losses.rrd_queue_update(*sides, **inputs, **shared))
  return sum(found[1:], found[0]), tuple(kept)


def bank_init(key, num_examples, *, width=128):
  if num_examples is None:
    raise ValueError(
      "expected num_examples, the number of rows of the data set, as its memory bank "
      "holds one entry per row; got None"
    )
  return losses.crd_bank_init(key, num_examples, width=width)


def banked(function, call):
  """Sum over the pairs; each pair has its own bank. Negatives are other rows."""
  if "index" not in call.batch:
    raise ValueError(
      'expected a batch with the array "index", the position of each row in the data '
      "set, got a batch without it; batches of flowkd_jax.data have it"
    )
  options = dict(call.options)
  number, momentum = options.pop("number", 16384), options.pop("momentum", 0.5)
  shared = {name: options[name] for name in ("mask", "axis_name")}
  shared |= {"temperature": options["temperature"]} if "temperature" in options else {}
  indices, found, kept = call.batch["index"], [], []
  for place, (sides, params, bank) in enumerate(
    zip(call.features(), call.params, call.state, strict=True)
  ):
    negatives = losses.crd_negatives(
      jax.random.fold_in(call.key, place),
      indices,
      bank["student"].shape[0],
      number=number,
      axis_name=call.options["axis_name"],
    )
    inputs = {
      "params": params,
      "bank": bank,
      "indices": indices,
      "negatives": negatives,
    }
    found.append(function(*sides, **inputs, **options))
    kept.append(losses.crd_bank_update(*sides, **inputs, momentum=momentum, **shared))
  return sum(found[1:], found[0]), tuple(kept)


def crd_bank(
  student,
  teacher,
  *,
  number=16384,
  momentum=0.5,
  temperature=0.07,
  authors=False,
  **inputs,
):
  """`losses.crd_bank` that also accepts the options of negatives and bank update."""
  del number, momentum
  options = {"temperature": temperature, "authors": authors}
  return losses.crd_bank(student, teacher, **options, **inputs)


def all_pairs(function, call):
  student, teacher = map(list, zip(*call.features(), strict=True))
  return function(student, teacher, **call.options)


def all_pairs_labelled(function, call):
  classes = call.student.logits.shape[-1]
  student, teacher = map(list, zip(*call.features(), strict=True))
  return function(
    student,
    teacher,
    labels=call.batch["label"],
    num_classes=classes,
    **call.options,
  )


def neighbouring_maps(function, call):
  """Sum over pairs of successive taps."""
  features = call.features()
  if len(features) < 2:
    raise ValueError(
      f"expected two pairs of taps or more, of successive layers, got {len(features)}"
    )
  found = [
    function(
      (earlier[0], later[0]),
      (earlier[1], later[1]),
      **call.options,
    )
    for earlier, later in zip(features[:-1], features[1:], strict=True)
  ]
  return sum(found[1:], found[0])


def factors(function, call):
  """Factor transfer, and the reconstruction loss that trains the paraphraser."""
  value = each_pair_learnt(function, call)
  names = ("mask", "axis_name", "reduction")
  options = {name: call.options[name] for name in names if name in call.options}
  restored = [
    losses.factor_reconstruction(teacher, params=params, **options)
    for (_, teacher), params in zip(call.features(), call.params, strict=True)
  ]
  return {"": value, "reconstruction": sum(restored[1:], restored[0])}


def rkd(student, teacher, *, distance=25.0, angle=50.0, reduction="mean", **options):
  """Distance and angle losses, weighted as by Park et al. 2019 for classification."""
  options["reduction"] = reduction
  return distance * losses.rkd_distance(
    student, teacher, **options
  ) + angle * losses.rkd_angle(student, teacher, **options)


def embedding_init(key, student_shape, teacher_shape, *, width=None):
  """Linear maps of both taps to `width` channels; {} if `width` is None."""
  if width is None:
    return {}
  return losses.crd_init(key, student_shape, teacher_shape, width=width)


def each_pair_embedded(function, call):
  """Sum over the pairs, after learnt linear maps of both taps if there are any."""
  mask, found = call.options["mask"], []
  for sides, params in zip(call.features(), call.params, strict=True):
    rows = [
      float32.matmul(kernels.flatten(features, mask), params[side]["kernel"])
      + params[side]["bias"][None, :]
      if params
      else features
      for side, features in zip(("student", "teacher"), sides, strict=True)
    ]
    found.append(function(*rows, **call.options))
  return sum(found[1:], found[0])

"""Distillation from a frozen teacher: what most methods share.

A student and a teacher see the same batch; a weighted sum of loss terms compares what
they make of it, with or without a cross-entropy on the labels beside it:

    L = label_weight * CE + sum_i weight_i(step) L_i

Such a method is its terms: a function from the outputs of both to named scalars. The
teacher's outputs may come in the batch, as "teacher/logits" and "teacher/taps/TAP";
then the teacher is not applied.
"""

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import jax
import optax
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax._numerics import renamed
from flowkd_jax.methods import _diagnostics
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _method
from flowkd_jax.methods import _micro_batches
from flowkd_jax.methods import _optimizers
from flowkd_jax.methods._diagnostics import LABELS
from flowkd_jax.teacher_cache import TEACHER
from flowkd_jax.teacher_cache import RecordedTeacher
from flowkd_jax.teacher_cache import teacher_outputs

Shapes = Mapping[str, tuple[int, ...]]

# Collection of the variables that holds the state of the loss terms.
LOSS_STATE = "loss_state"


class Outputs(NamedTuple):
  """Logits of a network on a batch, and its taps in the order asked."""

  logits: Float[Array, "batch classes"]
  taps: dict[str, Float[Array, "batch ..."]]


class Terms(Protocol):
  """The loss terms of a method, by name, each of the global batch.

  A function that has a further parameter of one of these names is called with it:

    step   updates so far, for options that follow a schedule
    key    a random key of the step, the same on all devices
    state  the state that `LossParams.state` made; the function then returns
           `(terms, new state)`, the state being the same on all devices
  """

  def __call__(
    self,
    student: Outputs,
    teacher: Outputs,
    batch: _method.Batch,
    params: _method.PyTree,
  ) -> dict[str, Float[Array, ""]]:
    """Returns the terms by name; those without a weight are recorded only.

    Args:
      student: Outputs of the student, whose taps are in the order that was asked for.
      teacher: Outputs of the teacher; gradients stop at them.
      batch: Rows of this device, with "image", "label" and "mask".
      params: Learnt parameters that `LossParams.init` made; {} if there are none.
    """
    ...


_Init = Callable[[Key[Array, ""], Shapes, Shapes], _method.PyTree]


class LossParams(NamedTuple):
  """Parameters that the loss terms learn beside the student, and their state.

  Attributes:
    init: `(key, shapes of student taps, of teacher taps) -> parameters`.
    optimizer: Updates them; by default the same transformation as for the student,
      with a state of its own.
    state: `(key, shapes of student taps, of teacher taps) -> state`, arrays that the
      terms carry from step to step without a gradient, such as a memory bank. None if
      there are none.
  """

  init: _Init
  optimizer: optax.GradientTransformation | None = None
  state: _Init | None = None


@renamed.renamed_arguments(learnt="params")
def distillation(  # noqa: PLR0913 (options of one method, by name)
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: _optimizers.Optimizer,
  *,
  terms: Terms | Callable[..., Any],
  weights: Mapping[str, optax.Schedule | float],
  taps: tuple[Sequence[str], Sequence[str]] = ((), ()),
  label_weight: float = 0.0,
  params: LossParams | None = None,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """A method from its loss terms.

  Args:
    student: The network to train; its `axis_name`, if it has BatchNorm, is the same.
    teacher: Frozen, in evaluation mode; receives no gradient.
    optimizer: Updates the student. It sees the student's own parameters, by the names
      that the student gives them.
    terms: The loss terms; those with further parameters are no `Terms` to a type
      checker.
    weights: Weight of each term, a number or a schedule of the step.
    taps: Taps of the student and of the teacher that the terms read.
    label_weight: Weight of a cross-entropy on the labels.
    params: How the parameters are made and updated that the terms learn, such as a
      projection; they are thrown away after training.
    initial: Variables of the student to start from; fresh ones by default.
    micro_batches: As in `gradient_method`: parts of the batch, to save memory.
    axis_name: Mapped axis over which the batch is split.

  Raises:
    ValueError: If there is no weight, or one is negative.
  """
  check_weights(weights, label_weight)
  _micro_batches.check_number(micro_batches)
  student_taps, teacher_taps = (tuple(names) for names in taps)
  frozen_teacher = _method.Teacher(teacher, teacher_taps)
  call_terms = _with_moment(terms, axis_name)

  def init_variables(key, images):
    fresh = capture.init(student, key, images) if initial is None else initial
    variables = dict(fresh)
    beside, kept = {}, {}
    if params is not None:
      shapes = (
        capture.tap_shapes(student, variables, images, taps=student_taps),
        capture.tap_shapes(*teacher, images, taps=teacher_taps),
      )
      beside, kept = _first_params(params, key, *shapes)
    # Checkpoints of version 0.1 have these two names.
    trained = {"student": variables.pop("params"), "learnt": beside}
    return {"params": trained, **variables, **kept}

  def outputs(variables, batch, constants, *, key):
    frozen = jax.tree.map(
      lax.stop_gradient, _of_teacher(frozen_teacher, batch, constants)
    )
    logits, activations, updated = _method.forward(
      student, _of_student(variables), batch, taps=student_taps, key=key
    )
    return (Outputs(logits, activations), frozen), updated

  def loss(features, variables, batch, *, step, key):
    own, frozen = features
    values, kept = call_terms(own, frozen, batch, variables, step=step, key=key)
    recorded = {name: values.pop(name) for name in [*values] if name not in weights}
    current = dict(weights)
    if label_weight:
      current[LABELS] = label_weight
      values[LABELS] = losses.cross_entropy(
        own.logits, batch["label"], mask=batch["mask"], axis_name=axis_name
      )
    current = {name: _method.at_step(weight, step) for name, weight in current.items()}
    value, metrics = _method.weighted_loss(values, current)
    return value, (kept, metrics | recorded)

  in_parts = _micro_batches.by_micro_batches(outputs, micro_batches)

  def compare(variables, batch, constants, key):
    (own, frozen), _ = in_parts(variables, batch, constants, key=key)
    pairs = {"logits": (own.logits, frozen.logits)}
    if len(student_taps) == len(teacher_taps) > 0:
      theirs = [frozen.taps[name] for name in teacher_taps]
      pairs = {
        name: (own.taps[name], other)
        for name, other in zip(student_taps, theirs, strict=True)
      }
    return _diagnostics.likeness(
      pairs,
      batch["label"],
      own.logits.shape[-1],
      mask=batch["mask"],
      axis_name=axis_name,
    )

  def check(images, num_classes):
    _heads.row_shapes(student, initial, images, taps=student_taps)
    _heads.row_shapes(*teacher, images, taps=teacher_taps)
    if label_weight:
      _heads.classifier_fits("student", student, initial)(images, num_classes)

  method = _method.gradient_method(
    init_variables=init_variables,
    loss=_micro_batches.FeatureLoss(outputs, loss),
    optimizer=_optimizers.PerTree(
      {"student": optimizer, "learnt": (params and params.optimizer) or optimizer}
    ),
    export=lambda variables: {
      "network": _method.Network(student, _of_student(variables))
    },
    constants=_method.as_arrays(dict(teacher.variables)),
    compare=compare,
    check=check,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  return method._replace(teacher=frozen_teacher)


def comparing_logits(
  method: _method.Method,
  student: tuple[capture.AnyModel, _method.Variables | None],
  teacher: _method.Network,
) -> _method.Method:
  """The method, whose `check` compares the heads of student and teacher too.

  Args:
    method: A method whose terms compare logits.
    student: The student, and its first variables if they are given.
    teacher: The teacher.
  """

  def check(images, num_classes):
    del num_classes
    ours = _heads.num_logits("student", *student, images)
    theirs = _heads.num_logits("teacher", *teacher, images)
    _heads.check_head("teacher", theirs)
    if ours != theirs:
      raise ValueError(
        f"student: expected as many logits as the teacher has, {theirs}, got {ours}"
      )

  return _method.also_checked(method, check)


def _of_teacher(teacher, batch, constants) -> Outputs:
  """The outputs that the batch brings, or else those of the network."""
  prefix = TEACHER
  if f"{TEACHER}logits" in batch:
    outputs = batch
  elif isinstance(teacher.network.model, RecordedTeacher):
    raise ValueError(
      "teacher: only its recorded outputs are known, and this batch has none; train on "
      "batches that bring them: teacher_cache.open_cache"
    )
  else:
    prefix = ""
    outputs = teacher_outputs(teacher, constants, batch["image"], batch["mask"])
  taps = {name: outputs[f"{prefix}taps/{name}"] for name in teacher.taps}
  return Outputs(outputs[f"{prefix}logits"], taps)


def check_weights(
  weights: Mapping[str, optax.Schedule | float], label_weight: float
) -> None:
  """Raises ValueError if there is nothing to weigh, or a weight is negative."""
  if not weights:
    raise ValueError("weights: expected at least one loss term, got none")
  for name, weight in {**weights, LABELS: label_weight}.items():
    _method.check_not_negative(f"weight of {name}", weight)


def _first_params(
  params: LossParams, key: Key[Array, ""], *shapes: Shapes
) -> tuple[_method.PyTree, dict[str, _method.PyTree]]:
  """Parameters that the terms learn, and the collection of their state, if any."""
  learnt = params.init(jax.random.fold_in(key, 2), *shapes)
  if params.state is None:
    return learnt, {}
  return learnt, {LOSS_STATE: params.state(jax.random.fold_in(key, 3), *shapes)}


def _with_moment(
  terms: Callable[..., Any], axis_name: str | None
) -> Callable[..., Any]:
  """The terms, called with the step, the key and the state if they name them.

  Returns:
    `(student, teacher, batch, variables, *, step, key) -> (terms, collections)`.
  """
  parameters = inspect.signature(terms).parameters
  names = [name for name in ("step", "key", "state") if name in parameters]

  def call(student, teacher, batch, variables, **moment):
    moment["state"] = variables.get(LOSS_STATE)
    asked = {name: moment[name] for name in names}
    if "key" in asked:
      asked["key"] = _first_key(asked["key"], axis_name)
    found = terms(student, teacher, batch, variables["params"]["learnt"], **asked)
    values, kept = found if "state" in asked else (found, None)
    return dict(values), {} if kept is None else {LOSS_STATE: kept}

  return call


def _first_key(key: Key[Array, ""], axis_name: str | None) -> Key[Array, ""]:
  """The key of the first device; every device has one of its own, for dropout."""
  if axis_name is None:  # as the first of many devices has it
    return jax.random.fold_in(key, 0)
  words = lax.all_gather(jax.random.key_data(key), axis_name)[0]
  return jax.random.wrap_key_data(words)


def _of_student(variables: Mapping[str, Any]) -> dict[str, Any]:
  own = {**variables, "params": variables["params"]["student"]}
  own.pop(LOSS_STATE, None)
  return own

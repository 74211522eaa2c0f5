"""Distillation from a frozen teacher by loss terms: the basis of most methods.

Student and teacher see the same batch. The loss is a weighted sum of terms that compare
their outputs, and optionally a cross-entropy on the labels:

    L = label_weight * CE + sum_i weight_i(step) L_i

A method defines only its terms: a function of both networks' outputs that returns named
scalars. The batch may already hold the teacher's outputs, as "teacher/logits" and
"teacher/taps/TAP"; the teacher is then not applied.
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
  """Logits and taps of a network on a batch; the taps have the requested order."""

  logits: Float[Array, "batch classes"]
  taps: dict[str, Float[Array, "batch ..."]]


class Terms(Protocol):
  """Function that computes the loss terms of a method on the global batch, by name.

  The function may have further parameters with these names, and is then called with
  their values:

    step   number of updates so far, for options that follow a schedule
    key    random key of the step, the same on all devices
    state  state made by `LossParams.state`. The function then returns
           `(terms, new state)`; the new state must be the same on all devices
  """

  def __call__(
    self,
    student: Outputs,
    teacher: Outputs,
    batch: _method.Batch,
    params: _method.PyTree,
  ) -> dict[str, Float[Array, ""]]:
    """Returns the terms by name. Terms without a weight are logged only.

    Args:
      student: Outputs of the student, its taps in the requested order.
      teacher: Outputs of the teacher. Gradients stop at them.
      batch: Rows of this device, with "image", "label" and "mask".
      params: Learnt parameters made by `LossParams.init`; {} if there are none.
    """
    ...


_Init = Callable[[Key[Array, ""], Shapes, Shapes], _method.PyTree]


class LossParams(NamedTuple):
  """Learnt parameters and state of the loss terms.

  Attributes:
    init: `(key, shapes of student taps, shapes of teacher taps) -> parameters`.
    optimizer: Optimizer of these parameters. By default the same transformation as for
      the student, with a state of its own.
    state: `(key, shapes of student taps, shapes of teacher taps) -> state`, arrays that
      the terms update at every step without a gradient, such as a memory bank. None if
      there is no state.
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
  """Make a method from loss terms between a student and a frozen teacher.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode; receives no gradient.
    optimizer: Optimizer of the student. It sees the student's own parameters under
      their own names.
    terms: Function that computes the loss terms. A type checker does not accept
      functions with further parameters as `Terms`; they are `Callable`.
    weights: Weight of each term, a number or a schedule of the step.
    taps: Taps that the terms read: those of the student, those of the teacher.
    label_weight: Weight of a cross-entropy on the labels.
    params: Parameters that the terms learn, such as a projection, and the state of the
      terms. They are not part of the exported network.
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

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
      teacher_taps=teacher_taps if pairs.keys() == {*student_taps} else (),
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
  """Add to a method's `check` that student and teacher have equally many logits.

  Args:
    method: A method whose terms compare logits.
    student: The student and its initial variables, or None for fresh ones.
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
  """Teacher outputs from the batch if it has them, otherwise from the network."""
  prefix = TEACHER
  if f"{TEACHER}logits" in batch:
    outputs = batch
  elif isinstance(teacher.network.model, RecordedTeacher):
    raise ValueError(
      "teacher: expected a batch with the teacher's recorded outputs, as its network "
      "is not there to compute them; got a batch without them. Train on batches of "
      "teacher_cache.open_cache"
    )
  else:
    prefix = ""
    outputs = teacher_outputs(teacher, constants, batch["image"], batch["mask"])
  taps = {name: outputs[f"{prefix}taps/{name}"] for name in teacher.taps}
  return Outputs(outputs[f"{prefix}logits"], taps)


def check_weights(
  weights: Mapping[str, optax.Schedule | float], label_weight: float
) -> None:
  """Raise ValueError if there is no loss term, or a weight is negative."""
  if not weights:
    raise ValueError("weights: expected at least one loss term, got none")
  for name, weight in {**weights, LABELS: label_weight}.items():
    _method.check_not_negative(f"weight of {name}", weight)


def _first_params(
  params: LossParams, key: Key[Array, ""], *shapes: Shapes
) -> tuple[_method.PyTree, dict[str, _method.PyTree]]:
  """Initial parameters of the terms, and a collection with their state, if any."""
  learnt = params.init(jax.random.fold_in(key, 2), *shapes)
  if params.state is None:
    return learnt, {}
  return learnt, {LOSS_STATE: params.state(jax.random.fold_in(key, 3), *shapes)}


def _with_moment(
  terms: Callable[..., Any], axis_name: str | None
) -> Callable[..., Any]:
  """Wrap `terms` to pass step, key and state only if its signature names them.

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
  """Key of the first device. Each device has its own key, for dropout."""
  if axis_name is None:  # equal to the key of the first of many devices
    return jax.random.fold_in(key, 0)
  words = lax.all_gather(jax.random.key_data(key), axis_name)[0]
  return jax.random.wrap_key_data(words)


def _of_student(variables: Mapping[str, Any]) -> dict[str, Any]:
  own = {**variables, "params": variables["params"]["student"]}
  own.pop(LOSS_STATE, None)
  return own

"""Distillation by a weighted sum of losses of the library, chosen by name.

    L = label_weight * CE + sum_i weight_i(step) L_i

Each loss reads logits or pairs of taps and has options. Its learnt parameters, if any,
are trained by the same optimizer as the student, including weight decay and momentum,
as in the benchmark of Tian et al. (ICLR 2020). Weights and numeric options may follow a
schedule of the step.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flowkd_jax import capture
from flowkd_jax import losses as loss_functions
from flowkd_jax._numerics import checks
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _loss_calls
from flowkd_jax.methods import _method
from flowkd_jax.methods import _named_losses
from flowkd_jax.methods import _tap_roles
from flowkd_jax.methods import _targets
from flowkd_jax.methods._diagnostics import LABELS

Weight = optax.Schedule | float
Taps = str | Mapping[str, str] | Sequence[tuple[str, str]]


class LossTerm(NamedTuple):
  """One weighted loss of `combined_losses`.

  Attributes:
    loss: Long or short name of the loss; see `loss_names`.
    weight: Weight of the loss, a number or a schedule of the step.
    options: Keyword arguments of the loss and of the function that makes its learnt
      parameters. A number may be a schedule of the step, unless it sets the shape or
      the initial value of learnt parameters.
    taps: Teacher tap of each student tap, as a mapping or as pairs; or a tap role:
      "pooled", "last_map", "maps" (all maps but that of the stem), "map_N", "levels",
      "tokens" or "taps". Empty for the default role of the loss. A teacher tap may be
      `POSTERIOR` or `LABELLED_POSTERIOR`.
    label: Name of the term in the metrics. By default the name of the loss, with a
      number if two terms would have the same name.
  """

  loss: str
  weight: Weight = 1.0
  options: Mapping[str, Any] = {}
  taps: Taps = ""
  label: str = ""


class _Bound(NamedTuple):
  """Loss term with its resolved loss function and tap pairs."""

  label: str
  term: LossTerm
  loss: _named_losses.NamedLoss
  pairs: tuple[tuple[str, str], ...]


def combined_losses(  # noqa: PLR0913 (options of one method, by name)
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  losses: Mapping[str, Weight] | Sequence[LossTerm],
  image_shape: Sequence[int],
  label_weight: Weight = 1.0,
  label_smoothing: float = 0.0,
  initial: _method.Variables | None = None,
  num_examples: int | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation by several named losses and a cross-entropy on the labels.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode; receives no gradient.
    optimizer: Optimizer of the student and, with a separate state, of the parameters
      that the losses learn.
    losses: Weights by loss name, as `{"kd": 0.9, "pkt": 300}`; or a sequence of
      `LossTerm`s.
    image_shape: Height, width and channels of the images. The taps of a role are found
      by their shapes.
    label_weight: Weight of the cross-entropy on the labels, a number or a schedule of
      the step. With 0 the student learns from the teacher alone.
    label_smoothing: Share of the target of the cross-entropy that is spread evenly
      over all classes.
    initial: Initial variables of the student; fresh ones by default.
    num_examples: Number of rows of the data set, for losses with a memory bank
      (`crd_bank`).
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    ValueError: If there is no loss; if a loss, an option or a tap is unknown; or if a
      number is out of range. The message names the loss.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flowkd_jax import capture, methods, models
    >>> model = models.by_name("digits_cnn:2")
    >>> variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
    >>> method = combined_losses(
    ...   model,
    ...   methods.Network(model, variables),
    ...   optax.sgd(0.1, 0.9),
    ...   losses={"kd": 0.9, "pkt": 300},
    ...   image_shape=(8, 8, 1),
    ...   label_weight=0.1,
    ...   axis_name=None,
    ... )
    >>> method.teacher.taps
    ('dense',)
  """
  checks.check_share("label_smoothing", label_smoothing)
  images = jax.ShapeDtypeStruct((2, *image_shape), np.float32)
  bound = _bound(_terms_of(losses), (student, initial), teacher, images)
  weights: dict[str, Weight] = {}
  for each in bound:
    weights[each.label] = each.term.weight
    weights |= {
      f"{each.label}/{name}": weight for name, weight in each.loss.further.items()
    }
  if callable(label_weight) or label_weight:
    weights[LABELS] = label_weight

  def init_params(key, student_shapes, teacher_shapes):
    shapes = student_shapes, _with_posteriors(teacher_shapes, bound, teacher, images)
    return {
      each.label: _first_params(each, jax.random.fold_in(key, number), *shapes)
      for number, each in enumerate(bound)
      if each.loss.init is not None
    }

  def init_state(key, student_shapes, teacher_shapes):
    del student_shapes, teacher_shapes
    return {
      each.label: _first_state(each, jax.random.fold_in(key, number), num_examples)
      for number, each in enumerate(bound)
      if each.loss.state is not None
    }

  def terms(student, teacher, batch, params, *, step, key, state):
    found, kept = {}, {}
    shared = {"mask": batch["mask"], "axis_name": axis_name}
    for number, each in enumerate(bound):
      call = _loss_calls.Call(
        student,
        teacher,
        each.pairs,
        batch,
        params.get(each.label, ()),
        state.get(each.label, ()),
        _options_at(each, step) | shared,
        jax.random.fold_in(key, number),
      )
      values, new = _evaluated(each, call)
      found |= values
      kept |= new
    if LABELS in weights:
      found[LABELS] = loss_functions.cross_entropy(
        student.logits, batch["label"], smoothing=label_smoothing, **shared
      )
    return found, kept

  method = _distillation.distillation(
    student,
    teacher,
    optimizer,
    terms=terms,
    weights=weights,
    taps=_names_of(bound),
    params=_distillation.LossParams(init_params, state=init_state),
    initial=initial,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  if LABELS in weights:
    check = _heads.classifier_fits("student", student, initial)
    method = _method.also_checked(method, check)
  if any(not each.pairs for each in bound):
    method = _distillation.comparing_logits(method, (student, initial), teacher)
  return method


def _terms_of(losses) -> list[tuple[str, LossTerm]]:
  """Terms with their labels; no two terms have the same label."""
  if isinstance(losses, Mapping):
    losses = [LossTerm(name, weight) for name, weight in losses.items()]
  if not losses:
    raise ValueError("losses: expected at least one loss, got none")
  labelled: dict[str, LossTerm] = {}
  for term in losses:
    label, number = term.label or term.loss, 2
    while label in labelled or label == LABELS:
      label, number = f"{term.label or term.loss}_{number}", number + 1
    labelled[label] = term
  return [*labelled.items()]


def _bound(terms, student, teacher, images) -> list[_Bound]:
  layouts = [
    _tap_roles.layout(model, variables, images)
    for model, variables in (student, teacher)
  ]
  bound = []
  for label, term in terms:
    loss = _named_losses.loss_by_name(term.loss)
    try:
      loss.check_options(term.options)
      bound.append(_Bound(label, term, loss, _pairs(term, loss, *layouts)))
    except ValueError as error:
      raise ValueError(f"losses: {label}: {error}") from None
  return bound


def _pairs(term, loss, student: _tap_roles.Layout, teacher: _tap_roles.Layout):
  if not loss.taps:
    if term.taps:
      raise ValueError(
        f"taps: expected none, as this loss compares logits, got {term.taps}"
      )
    return ()
  given = term.taps or loss.taps
  if isinstance(given, str):
    return _tap_roles.pairs(given, student, teacher)
  pairs = tuple(given.items()) if isinstance(given, Mapping) else tuple(given)
  if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
    raise ValueError(
      "taps: expected pairs (student tap, teacher tap), a mapping or the name of a "
      f"role, got {given}"
    )
  for side, index, known in (
    ("student", 0, student.names),
    ("teacher", 1, (*teacher.names, *_targets.POSTERIORS)),
  ):
    for pair in pairs:
      if pair[index] not in known:
        raise ValueError(
          f"taps: expected taps of the {side}, of {', '.join(known)}, got {pair[index]}"
        )
  return pairs


def _names_of(bound) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Taps of student and teacher that the losses read, without duplicates."""
  pairs = [pair for each in bound for pair in each.pairs]
  ours = dict.fromkeys(name for name, _ in pairs)
  theirs = dict.fromkeys(name for _, name in pairs if name not in _targets.POSTERIORS)
  return tuple(ours), tuple(theirs)


def _with_posteriors(shapes, bound, teacher: _method.Network, images):
  """Shapes of the teacher's taps, and of its posteriors if a loss reads them."""
  read = [name for each in bound for _, name in each.pairs if name not in shapes]
  if not read:
    return shapes
  classes = _heads.num_logits("teacher", teacher.model, teacher.variables, images)
  return {**shapes, **dict.fromkeys(read, (images.shape[0], classes))}


def _first_params(each: _Bound, key, student_shapes, teacher_shapes):
  init: Any = each.loss.init
  options = _unscheduled(each, each.loss.split_options(each.term.options)[1])
  if each.loss.init_takes_lists:
    ours = [student_shapes[name] for name, _ in each.pairs]
    theirs = [teacher_shapes[name] for _, name in each.pairs]
    return (init(key, ours, theirs, **options),)
  keys = jax.random.split(key, len(each.pairs))
  return tuple(
    init(pair_key, student_shapes[ours], teacher_shapes[theirs], **options)
    for pair_key, (ours, theirs) in zip(keys, each.pairs, strict=True)
  )


def _first_state(each: _Bound, key, num_examples):
  init: Any = each.loss.state
  options = _unscheduled(each, each.loss.split_options(each.term.options)[2])
  try:
    return tuple(
      init(pair_key, num_examples, **options)
      for pair_key in jax.random.split(key, len(each.pairs))
    )
  except ValueError as error:
    raise ValueError(f"losses: {each.label}: {error}") from None


def _unscheduled(each: _Bound, options: dict[str, Any]) -> dict[str, Any]:
  """Return the options, or raise ValueError if one follows a schedule.

  These options set shapes or initial values, so they cannot change later.
  """
  scheduled = [name for name, value in options.items() if callable(value)]
  if scheduled:
    raise ValueError(
      f"losses: {each.label}: {scheduled[0]}: expected a number, as the option sets "
      "up the learnt parameters or the state, got a schedule"
    )
  return options


def _options_at(each: _Bound, step) -> dict[str, Any]:
  own = each.loss.split_options(each.term.options)[0]

  def at(value: Any) -> Any:
    if isinstance(value, list | tuple):
      return [at(one) for one in value]
    return jnp.asarray(value(step), jnp.float32) if callable(value) else value

  # Options that are not numbers, such as a kernel, may be functions without being
  # schedules.
  return {
    name: at(value) if each.loss.is_number(name) else value
    for name, value in own.items()
  }


def _evaluated(each: _Bound, call) -> tuple[dict[str, Any], dict[str, Any]]:
  """Terms of a loss by name, and its new state by label."""
  try:
    found = each.loss.apply(each.loss.function, call)
  except (TypeError, ValueError) as error:
    # Raised as the base class: subclasses, such as JAX's, may need other arguments than
    # a message.
    kind = TypeError if isinstance(error, TypeError) else ValueError
    raise kind(f"losses: {each.label}: {error}") from error
  kept = {}
  if each.loss.state is not None:
    found, kept[each.label] = found
  values = found if isinstance(found, dict) else {"": found}
  named = {
    f"{each.label}/{name}" if name else each.label: value
    for name, value in values.items()
  }
  return named, kept

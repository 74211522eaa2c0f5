"""Distillation with filtered gradients for domain generalization, after KDDG.

The method follows Wang, Li, Chau and Kot, "Embracing the Dark Knowledge: Domain
Generalization Using Regularized Knowledge Distillation", ACM MM 2021,
https://arxiv.org/abs/2107.02629. Distillation acts as a regulariser, and a filter on
the student's gradient makes the mapping easier to learn. Teacher and student see the
same pooled domains:

    L = a CE + (1 - a) T^2 KL(softmax(t / T), softmax(s / T))

The gradient of the divergence with respect to the student's logits is proportional to
`d = softmax(s / T) - softmax(t / T)`; a filter sets some of it to zero.

**The filters are our own.** The paper's abstract mentions a gradient filter; its
definition was not available to us. These filters are candidates. Compare each of them
with "none" and with "random":

| filter | gradients that pass |
|---|---|
| "none" | all: plain distillation |
| "saturated" | rows with `d < 0` at the label: less confident than the teacher |
| "confident" | rows that are wrong, or right with a probability below a threshold |
| "small" | entries with `|d|` at or above a threshold |
| "random" | random rows, a share of `keep_rate`: the control |

A filter changes gradients, not the value of the loss. The metric "kept" is the share of
gradient entries that pass; use it as `keep_rate` of the control. "saturated" and
"confident" read the label; rows without a label pass them.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import label_rule
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _method
from flowkd_jax.parallel import global_mean
from flowkd_jax.parallel import row_positions

GRADIENT_FILTERS = ("none", "saturated", "confident", "small", "random")
_OF_LABELS = ("saturated", "confident")
THRESHOLDS = {"confident": 0.9, "small": 0.01}
# Folded into the key of the step like a device number; no device has this number.
_DRAWS = 2**32 - 1


def filtered_distillation(  # noqa: PLR0913 (options of one method, by name)
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  gradient_filter: str = "none",
  threshold: float | None = None,
  keep_rate: optax.Schedule | float = 0.5,
  temperature: float = 4.0,
  label_weight: float = 0.5,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation by softened logits whose gradient is filtered.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode, with the same classes.
    optimizer: Optimizer of the student.
    gradient_filter: One of `GRADIENT_FILTERS`.
    threshold: Threshold of the filter: for "confident" a probability at temperature 1,
      for "small" the absolute value of an entry of `d`. None for the default in
      `THRESHOLDS`.
    keep_rate: Share of rows that "random" keeps, a number or a schedule of the step.
    temperature: Temperature `T` of the softmax.
    label_weight: Weight `a` of the cross-entropy, in [0, 1].
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    ValueError: If the filter is unknown or a number is out of its range.
  """
  checks.check_choice("gradient_filter", gradient_filter, GRADIENT_FILTERS)
  checks.check_positive("temperature", temperature)
  for name, share in (("label_weight", label_weight), ("keep_rate", keep_rate)):
    if not callable(share) and not 0 <= share <= 1:
      raise ValueError(f"{name}: expected a share in [0, 1], got {share}")

  def passing(student, teacher, batch):
    if gradient_filter == "random":
      return jnp.broadcast_to(batch["drawn"][:, None], student.logits.shape)
    return passes_filter(
      gradient_filter,
      student.logits,
      teacher.logits,
      batch["label"],
      temperature=temperature,
      threshold=threshold,
    )

  def terms(student, teacher, batch, params):
    del params
    passes = passing(student, teacher, batch)
    value = losses.knowledge_distillation(
      filter_gradient(student.logits, passes),
      teacher.logits,
      temperature=temperature,
      mask=batch["mask"],
      axis_name=axis_name,
    )
    kept = passes.astype(jnp.float32).mean(axis=1)
    if gradient_filter in _OF_LABELS:
      kept = _read(batch["label"], student.logits, batch["mask"]).invalidate(kept)
    return {"logits": value, "kept": global_mean(kept, batch["mask"], axis_name)}

  method = _distillation.distillation(
    student,
    teacher,
    optimizer,
    terms=terms,
    weights={"logits": 1 - label_weight},
    label_weight=label_weight,
    initial=initial,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  method = _distillation.comparing_logits(method, (student, initial), teacher)
  if gradient_filter == "random":
    return _with_draws(method, keep_rate, axis_name)
  return method


def passes_filter(
  gradient_filter: str,
  student: Float[Array, "batch classes"],
  teacher: Float[Array, "batch classes"],
  labels: Int[Array, " batch"],
  *,
  temperature: float,
  threshold: float | None = None,
) -> Bool[Array, "batch classes"]:
  """Mask of the gradient entries that pass; see the table above.

  Args:
    gradient_filter: Any but "random".
    student: Student logits.
    teacher: Teacher logits.
    labels: Class of each row.
    temperature: Temperature `T` of the softmax.
    threshold: Threshold of the filter, as in `filtered_distillation`.
  """
  if threshold is None:
    threshold = THRESHOLDS.get(gradient_filter, 0.0)
  student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
  gradient = jax.nn.softmax(student / temperature)
  gradient -= jax.nn.softmax(teacher / temperature)
  if gradient_filter == "small":
    return jnp.abs(gradient) >= threshold
  rows = jnp.ones(student.shape[:1], bool)
  if gradient_filter in _OF_LABELS:
    read = _read(labels, student)
    rows = ~read.labelled | _passing_rows(
      gradient_filter, student, gradient, read.classes, threshold
    )
  return jnp.broadcast_to(rows[:, None], student.shape)


def _passing_rows(gradient_filter, student, gradient, classes, threshold):
  if gradient_filter == "saturated":
    return jnp.take_along_axis(gradient, classes[:, None], axis=1)[:, 0] < 0
  right = student.argmax(axis=1) == classes
  return ~(right & (jax.nn.softmax(student).max(axis=1) >= threshold))


def _read(labels, logits, mask=None):
  batch, classes = logits.shape
  return label_rule.read_labels(
    labels, classes, shape=(batch,), mask=mask, name="label"
  )


def filter_gradient(
  logits: Float[Array, "batch classes"], passes: Bool[Array, "batch classes"]
) -> Float[Array, "batch classes"]:
  """Return the logits unchanged; set their gradient to zero where it does not pass."""
  return jnp.where(passes, logits, lax.stop_gradient(logits))


def _with_draws(method, keep_rate, axis_name):
  """Draw rows at random for a method, independently of the number of devices."""

  def with_draws(function):
    def drawn(state, batch, constants):
      key = jax.random.fold_in(state.key, state.step)
      key = jax.random.fold_in(key, jnp.uint32(_DRAWS))
      positions = row_positions(batch["mask"].shape[0], axis_name)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
      draws = jax.vmap(jax.random.uniform)(keys)
      draws = draws < _method.at_step(keep_rate, state.step)
      return function(state, {**batch, "drawn": draws}, constants)

    return drawn

  return method._replace(
    update=with_draws(method.update), observe=with_draws(method.observe)
  )

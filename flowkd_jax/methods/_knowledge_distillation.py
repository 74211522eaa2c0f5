"""Knowledge distillation by softened logits (Hinton, Vinyals, Dean, 2015).

"Distilling the knowledge in a neural network", https://arxiv.org/abs/1503.02531:

    L = label_weight * CE + weight * T^2 KL(softmax(t / T), softmax(s / T))

It is the baseline for all other methods.
"""

import optax

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax._numerics import checks
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _method


def knowledge_distillation(
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  temperature: float = 4.0,
  weight: optax.Schedule | float = 1.0,
  label_weight: float = 0.0,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation by the teacher's softened probabilities.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode, with the same classes.
    optimizer: Optimizer of the student.
    temperature: Temperature `T` of the softmax.
    weight: Weight of the divergence, a number or a schedule of the step.
    label_weight: Weight of the cross-entropy on the labels. With 0 the student learns
      from the teacher alone.
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    ValueError: If the temperature is not positive or a weight is negative.
  """
  checks.check_positive("temperature", temperature)

  def terms(student, teacher, batch, params):
    del params
    value = losses.knowledge_distillation(
      student.logits,
      teacher.logits,
      temperature=temperature,
      mask=batch["mask"],
      axis_name=axis_name,
    )
    return {"logits": value}

  method = _distillation.distillation(
    student,
    teacher,
    optimizer,
    terms=terms,
    weights={"logits": weight},
    label_weight=label_weight,
    initial=initial,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  return _distillation.comparing_logits(method, (student, initial), teacher)

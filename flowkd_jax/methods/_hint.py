"""Hint learning (Romero et al., "FitNets: hints for thin deep nets", ICLR 2015).

https://arxiv.org/abs/1412.6550. A learnt linear map `r_i` takes each student tap to the
values of its teacher tap:

    L = label_weight * CE + weight * sum_i mean_rows |t_i - r_i(s_i)|^2

Differs from the paper: training has one stage, in which the linear maps are trained
together with the student. The paper first trains the student up to the hinted layer, by
the hint alone. The linear maps are not part of the exported network.
"""

from collections.abc import Mapping

import jax
import optax

from flowkd_jax import _taps
from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax._numerics import renamed
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _method


@renamed.renamed_arguments(learnt_optimizer="params_optimizer")
def hint(  # noqa: PLR0913 (options of one method, by name)
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  pairs: Mapping[str, str],
  weight: optax.Schedule | float = 1.0,
  reduction: str = "rows",
  label_weight: float = 0.0,
  params_optimizer: optax.GradientTransformation | None = None,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation by hints.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode.
    optimizer: Optimizer of the student.
    pairs: Teacher tap of each student tap, by name.
    weight: Weight of each tap, a number or a schedule of the step.
    reduction: Reduction of `losses.hint`, "rows" or "elements".
    label_weight: Weight of a cross-entropy on the labels.
    params_optimizer: Optimizer of the linear maps. By default the same transformation
      as for the student, with a state of its own.
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    TypeError: If `pairs` is not a mapping from names to names.
    ValueError: If `pairs` is empty or a weight is negative.
  """
  _taps.check_pairs(pairs)

  def init_params(key, student_shapes, teacher_shapes):
    # Keys in order of the names: the order of `pairs` must not change the result.
    keys = zip(sorted(pairs, key=str), jax.random.split(key, len(pairs)), strict=True)
    return {
      tap: losses.hint_init(tap_key, student_shapes[tap], teacher_shapes[pairs[tap]])
      for tap, tap_key in keys
    }

  def terms(student, teacher, batch, params):
    return {
      tap: losses.hint(
        student.taps[tap],
        teacher.taps[teacher_tap],
        params=params[tap],
        reduction=reduction,
        mask=batch["mask"],
        axis_name=axis_name,
      )
      for tap, teacher_tap in pairs.items()
    }

  return _distillation.distillation(
    student,
    teacher,
    optimizer,
    terms=terms,
    weights=dict.fromkeys(pairs, weight),
    taps=(tuple(pairs), tuple(pairs.values())),
    label_weight=label_weight,
    params=_distillation.LossParams(init_params, params_optimizer),
    initial=initial,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )

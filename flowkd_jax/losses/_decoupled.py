"""Decoupled knowledge distillation.

Missing labels, NaN and infinities are treated by the rules of `flowkd_jax.losses`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _log_probabilities
from flowkd_jax.losses import _logits


@meshes.on_any_mesh
def decoupled_kd(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  labels: Int[Array, "batch *positions"],
  alpha: _logits.Option = 1.0,
  beta: _logits.Option = 8.0,
  temperature: _logits.Option = 4.0,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Decoupled knowledge distillation: `T^2 mean_i (alpha TCKD_i + beta NCKD_i)`.

  TCKD is the relative entropy between the probabilities of the label and of anything
  else; NCKD that between the probabilities of the other classes among themselves
  (Zhao et al. 2022). `alpha = 1` with the teacher's probability of the other classes
  as beta is `knowledge_distillation`, as the paper shows. Scale and invariances
  as there.

  Differs from the authors' code: the label is left out of NCKD, where they lower its
  logit by 1000, and logarithms are of sums of exponentials, where their log of a
  rounded 0 is infinite. With two classes NCKD is 0. Their trainer ramps the loss up
  over 20 epochs and uses beta from 1 to 8, depending on the pair of networks.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    labels: Class of each row. Rows with a negative label have no label and are left
      out.
    alpha: Weight of TCKD. May be traced, like `beta` and `temperature`.
    beta: Weight of NCKD. May be traced.
    temperature: Temperature T, above 0: one number, or one for each example or row.
    standardize: Standardise the logits of each row first (Sun et al. 2024), as
      `flowkd_jax.losses` explains.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If logits are not floating point or labels not integers.
    ValueError: If shapes disagree, there is a single class, a label in a NumPy array is
      no class, `temperature` is not positive or a weight is not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])
    >>> float(decoupled_kd(logits, logits, labels=jnp.array([1, 1])))
    0.0

  References:
    Zhao et al., "Decoupled knowledge distillation", CVPR 2022.
  """
  rows, read = _logits.read_labelled(mask, labels, student=student, teacher=teacher)
  sides, scale = _logits.softened(rows, temperature, standardize=standardize)
  positions = jnp.arange(student.shape[-1], dtype=jnp.int32)
  target = positions[None, :] == read.classes[:, None]
  student_side, teacher_side = (_decoupled_logs(side, target) for side in sides)
  target_terms, rest_terms = (
    _log_probabilities.relative_entropy(of_student, of_teacher).sum(1)
    for of_student, of_teacher in zip(student_side[:2], teacher_side[:2], strict=True)
  )
  # Without mass on the other classes the teacher says nothing about them.
  rest_terms = jnp.where(teacher_side.certain, 0, rest_terms)
  weights = _logits.numbers(rows, alpha=alpha, beta=beta)
  terms = scale**2 * (weights[0] * target_terms + weights[1] * rest_terms)
  return rows.mean(read.invalidate(terms), axis_name)


class _Decoupled(NamedTuple):
  """Log-probabilities of one side.

  Attributes:
    binary: Of the label and of anything else.
    rest: Of each other class among the others; minus infinity at the label.
    certain: Rows in which no other class is possible.
  """

  binary: Float[Array, "batch 2"]
  rest: Float[Array, "batch classes"]
  certain: Bool[Array, " batch"]


def _decoupled_logs(logits, target):
  label = jnp.where(target, logits, 0).sum(1, keepdims=True)
  others = jnp.where(target, -jnp.inf, logits)
  certain = (others == -jnp.inf).all(1, keepdims=True)
  # The gradient of logsumexp is NaN where no class is possible.
  total = jax.nn.logsumexp(jnp.where(certain, 0, others), axis=1, keepdims=True)
  anything_else = jnp.where(certain, -jnp.inf, total)
  binary = jax.nn.log_softmax(jnp.concatenate([label, anything_else], axis=1))
  return _Decoupled(binary, others - total, certain[:, 0])

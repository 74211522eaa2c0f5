"""Decoupled knowledge distillation.

The documentation of `flowkd_jax.losses` has the rules for missing labels, NaN and
infinities.
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

  TCKD is the relative entropy between two binary distributions, the probabilities of
  the label and of all other classes together. NCKD is the relative entropy between the
  distributions over the other classes (Zhao et al. 2022). If alpha is 1 and beta is the
  teacher's probability of the other classes, the sum is `knowledge_distillation`, as
  the paper shows. Scale and invariances are those of `knowledge_distillation`.

  Differs from the authors' code in two ways. The label is left out of NCKD, and the
  authors lower its logit by 1000. Logarithms are computed by log-sum-exp, and the
  authors take the logarithm of a probability that may be rounded to 0. With two classes
  NCKD is 0. The authors increase the loss linearly over 20 epochs and use beta from 1
  to 8, depending on the pair of networks.

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
    TypeError: If logits are not floating point, or labels are not integers.
    ValueError: If shapes disagree, there is a single class, a label in a NumPy array is
      at or above the number of classes, `temperature` is not positive, or a weight is
      not finite.

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
  # A teacher that rules out all other classes has no distribution over them.
  rest_terms = jnp.where(teacher_side.certain, 0, rest_terms)
  weights = _logits.numbers(rows, alpha=alpha, beta=beta)
  terms = scale**2 * (weights[0] * target_terms + weights[1] * rest_terms)
  return rows.mean(read.invalidate(terms), axis_name)


class _Decoupled(NamedTuple):
  """Log-probabilities of one side.

  Attributes:
    binary: Log-probabilities of the label and of all other classes together.
    rest: Log-probabilities of the other classes given that it is not the label. The
      entry of the label is minus infinity.
    certain: True for rows in which all other classes are ruled out.
  """

  binary: Float[Array, "batch 2"]
  rest: Float[Array, "batch classes"]
  certain: Bool[Array, " batch"]


def _decoupled_logs(logits, target):
  label = jnp.where(target, logits, 0).sum(1, keepdims=True)
  others = jnp.where(target, -jnp.inf, logits)
  certain = (others == -jnp.inf).all(1, keepdims=True)
  # The gradient of logsumexp is NaN if all its entries are minus infinity.
  total = jax.nn.logsumexp(jnp.where(certain, 0, others), axis=1, keepdims=True)
  anything_else = jnp.where(certain, -jnp.inf, total)
  binary = jax.nn.log_softmax(jnp.concatenate([label, anything_else], axis=1))
  return _Decoupled(binary, others - total, certain[:, 0])

"""Divergences of two distributions by their log-probabilities, entry by entry.

Entries of impossible classes are minus infinity. The sum over the classes is the
divergence.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

Logs = Float[Array, "..."]

# exp of it and its products with probabilities are finite.
_LARGEST_LOG_RATIO = 80.0


def relative_entropy(student_logs: Logs, teacher_logs: Logs) -> Logs:
  """Terms `t (log t - log s) - t + s`, each 0 or above; the last two cancel in sum.

  Without them the terms have both signs, and the sum of near sides is rounding. Where
  the teacher has no mass the term is s. NaN is no mass either way and stays. Where the
  student alone has no mass the term is infinite, and its gradient finite.
  """
  teacher = jnp.exp(teacher_logs)
  massless = teacher == 0
  gaps = jnp.where(massless, 0, teacher_logs - student_logs)
  teacher = jnp.where(gaps == jnp.inf, lax.stop_gradient(teacher), teacher)
  near = ~massless & (jnp.abs(gaps) < 1)
  close = jnp.where(near, gaps, 0)
  return jnp.where(
    near,
    teacher * (close + jnp.expm1(-close)),
    teacher * (gaps - 1) + jnp.exp(student_logs),
  )


def skewed(student_logs: Logs, teacher_logs: Logs, share: Float[Array, "..."]) -> Logs:
  """Relative entropy of the teacher from `share * teacher + (1 - share) * student`."""
  return relative_entropy(mixture(student_logs, teacher_logs, share), teacher_logs)


def jensen_shannon(
  student_logs: Logs,
  teacher_logs: Logs,
  beta: Float[Array, "..."],
  weights: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> Logs:
  """Weighted relative entropies of teacher and student from their mixture.

  Args:
    student_logs: Log-probabilities of the student.
    teacher_logs: Log-probabilities of the teacher.
    beta: Weight of the teacher in the mixture.
    weights: Weights of the teacher's term and of the student's term.
  """
  mixed = mixture(student_logs, teacher_logs, beta)
  of_teacher = relative_entropy(mixed, teacher_logs)
  of_student = relative_entropy(mixed, student_logs)
  return _times(weights[0], of_teacher) + _times(weights[1], of_student)


def jensen_shannon_weights(
  beta: Float[Array, "..."], *, scaled: bool
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """Weights of the two terms: beta and `1 - beta`, but 1 for the only term at the ends.

  At an end the mixture is one of the two sides, and the term of that side is 0.

  Args:
    beta: Weight of the teacher in the mixture, in [0, 1].
    scaled: Divide both weights by `beta (1 - beta)`, which makes them continuous in
      beta.
  """
  if scaled:
    # Nearer to an end, rounding of the mixture would be divided by it.
    margin = jnp.finfo(beta.dtype).eps
    forward, reverse = beta < margin, beta > 1 - margin
    safe = jnp.where(forward | reverse, 0.5, beta)
    of_teacher, of_student = 1 / (1 - safe), 1 / safe
  else:
    forward, reverse = beta <= 0, beta >= 1
    of_teacher, of_student = beta, 1 - beta
  return (
    jnp.where(forward, 1, jnp.where(reverse, 0, of_teacher)),
    jnp.where(reverse, 1, jnp.where(forward, 0, of_student)),
  )


def _times(weight, terms):
  """A product that is 0 where the weight is, even if the term is infinite."""
  return jnp.where(weight == 0, 0, weight * jnp.where(weight == 0, 0, terms))


@jax.custom_jvp
def mixture(student_logs: Logs, teacher_logs: Logs, share: Float[Array, "..."]) -> Logs:
  """`log(share * t + (1 - share) * s)`, with finite derivatives in the share.

  Those of a logarithm of the share would be infinite at 0 and 1.
  """
  return jnp.logaddexp(
    _log(1 - share) + student_logs,
    _log(share) + teacher_logs,
  )


def _log(share):
  return jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1)), -jnp.inf)


@mixture.defjvp
def _mixture_jvp(primals, tangents):
  student_logs, teacher_logs, share = primals
  mixed = mixture(student_logs, teacher_logs, share)
  # Both sides may be impossible.
  safe = jnp.where(mixed == -jnp.inf, 0, mixed)
  of_student, of_teacher = (
    jnp.exp(jnp.minimum(logs - safe, _LARGEST_LOG_RATIO))
    for logs in (student_logs, teacher_logs)
  )
  tangent = (
    (1 - share) * of_student * tangents[0]
    + share * of_teacher * tangents[1]
    + (of_teacher - of_student) * tangents[2]
  )
  return mixed, tangent


def forward(logs, options, columns, constants):
  """Relative entropy of the teacher from the student."""
  student, teacher = logs
  return relative_entropy(student, teacher)

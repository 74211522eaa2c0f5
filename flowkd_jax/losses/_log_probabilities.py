"""Divergences of two distributions from their log-probabilities, entry by entry.

The sum of the entries over the classes is the divergence. A class of probability 0 has
the log-probability minus infinity.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

Logs = Float[Array, "..."]

# `exp` of this number is finite in float32, also multiplied with a probability.
_LARGEST_LOG_RATIO = 80.0


def relative_entropy(student_logs: Logs, teacher_logs: Logs) -> Logs:
  """Terms `t (log t - log s) - t + s` of the relative entropy, each 0 or above.

  `s - t` sums to 0 over the classes. Without it the terms have both signs, and their
  sum is rounding noise when both sides are close. If the teacher's probability is 0,
  the term is s. If only the student's probability is 0, the term is infinite and its
  gradient is finite. NaN stays NaN.
  """
  teacher = jnp.exp(teacher_logs)
  massless = teacher == 0
  gaps = jnp.where(massless, 0, teacher_logs - student_logs)
  # An infinite gap would give the teacher's logits an infinite gradient.
  teacher = jnp.where(gaps == jnp.inf, lax.stop_gradient(teacher), teacher)
  near = ~massless & (jnp.abs(gaps) < 1)
  # With g = log t - log s the term is t (g - 1 + exp(-g)), and `expm1` keeps the digits
  # of small g.
  close = jnp.where(near, gaps, 0)
  return jnp.where(
    near,
    teacher * (close + jnp.expm1(-close)),
    teacher * (gaps - 1) + jnp.exp(student_logs),
  )


def skewed(student_logs: Logs, teacher_logs: Logs, share: Float[Array, "..."]) -> Logs:
  """Terms of KL(teacher, m) for the mixture `m = share t + (1 - share) s`."""
  return relative_entropy(mixture(student_logs, teacher_logs, share), teacher_logs)


def jensen_shannon(
  student_logs: Logs,
  teacher_logs: Logs,
  beta: Float[Array, "..."],
  weights: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> Logs:
  """Terms of the generalised Jensen-Shannon divergence.

  These are the relative entropies of teacher and student from their mixture, weighted.

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
  """Weights of the two terms of the generalised Jensen-Shannon divergence.

  They are beta and `1 - beta`. At beta = 0 or 1 the mixture equals one side, and the
  term of this side is 0. The other term then has the weight 1.

  Args:
    beta: Weight of the teacher in the mixture, in [0, 1].
    scaled: Divide both weights by `beta (1 - beta)`, which makes them continuous in
      beta.
  """
  if scaled:
    # Closer to an end, a division by beta or `1 - beta` would enlarge the rounding of
    # the mixture.
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
  """Product of weight and terms, 0 for a weight of 0 even if a term is infinite."""
  return jnp.where(weight == 0, 0, weight * jnp.where(weight == 0, 0, terms))


@jax.custom_jvp
def mixture(student_logs: Logs, teacher_logs: Logs, share: Float[Array, "..."]) -> Logs:
  """Log-probabilities `log(share * t + (1 - share) * s)` of a mixture.

  The derivative with respect to `share` is finite for shares of 0 and 1 too, where the
  derivative of `log(share)` is infinite.
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
  # If both sides rule out the class, -inf less -inf would be NaN.
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
  """Terms of KL(teacher, student), in the form of `_softmax.Terms`."""
  student, teacher = logs
  return relative_entropy(student, teacher)

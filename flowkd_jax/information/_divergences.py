"""Divergences between two conditional distributions, term by term.

A divergence takes log-probabilities of student and teacher and returns the term of
every pair. The caller sums the terms of a row. All terms are 0 where both sides agree.
With the probabilities `t` of the teacher and `s` of the student:

| name | term | |
|---|---|---|
| `jeffreys` | `(t - s)(log t - log s)` | Passalis et al. 2020, Eq. 5-8; symmetric |
| `kullback_leibler` | `t (log t - log s) + s - t` | `s - t` sums to 0 over a row |
| `absolute` | `|t - s|` | twice the total variation |
| `squared` | `(t - s)^2` | |
| `exponential` | `t (log t - log s)^2` | |
| `kagan` | `(t - s)^2 / t` | also called chi squared |
| `smoothed_kullback_leibler(epsilon)` | `t log((t + epsilon) / (s + epsilon))` | |
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import named_choices

Terms = Float[Array, "rows columns"]
Divergence = Callable[[Terms, Terms], Terms]

# exp(2 * 30) times a probability stays far inside float32.
_LARGEST_LOG_RATIO = 30.0


def jeffreys(log_student: Terms, log_teacher: Terms) -> Terms:
  """Jeffreys divergence `(t - s)(log t - log s)`, the divergence of the paper.

  It is symmetric and non-negative (Passalis et al. 2020, Eq. 5-8).
  """
  difference = log_teacher - log_student
  return (jnp.exp(log_teacher) - jnp.exp(log_student)) * difference


@jax.custom_jvp
def kullback_leibler(log_student: Terms, log_teacher: Terms) -> Terms:
  """Kullback-Leibler divergence with the terms `t (log t - log s) + s - t`.

  The terms of a row sum to KL(teacher, student), because `s - t` sums to 0 over a row.
  With it every term is non-negative and of second order in the difference. Without it
  the terms are of first order and cancel: float32 has no digits of the sum left when
  student and teacher are close.
  """
  log_ratio = log_student - log_teacher
  # With x = log_ratio the term is t (exp(x) - 1 - x).
  student, teacher = jnp.exp(log_student), jnp.exp(log_teacher)
  return jnp.where(
    jnp.abs(log_ratio) < 0.5,
    teacher * _second_order(log_ratio) * log_ratio**2,
    student - teacher - teacher * log_ratio,
  )


def _second_order(x):
  """Series of `(exp(x) - 1 - x) / x^2`, which keeps its digits near 0."""
  series = jnp.zeros_like(x)
  # For |x| < 1/2 the terms that are left out are below the precision of the dtype.
  highest = 13 if x.dtype == jnp.float64 else 9
  for power in range(highest, 1, -1):
    series = (series * x + 1) * (1 / power)
  return series


@kullback_leibler.defjvp
def _kullback_leibler_jvp(primals, tangents):
  log_student, log_teacher = primals
  log_ratio = log_student - log_teacher
  student, teacher = jnp.exp(log_student), jnp.exp(log_teacher)
  # `s - t`. For near values the difference has no digits left, and the series has all.
  gap = jnp.where(
    jnp.abs(log_ratio) < 0.5,
    teacher * (log_ratio + _second_order(log_ratio) * log_ratio**2),
    student - teacher,
  )
  change = gap * tangents[0] - teacher * log_ratio * tangents[1]
  return kullback_leibler(*primals), change


def absolute(log_student: Terms, log_teacher: Terms) -> Terms:
  """Absolute difference `|t - s|`, twice the total variation."""
  return jnp.abs(jnp.exp(log_teacher) - jnp.exp(log_student))


def squared(log_student: Terms, log_teacher: Terms) -> Terms:
  """Squared difference `(t - s)^2`."""
  return (jnp.exp(log_teacher) - jnp.exp(log_student)) ** 2


def exponential(log_student: Terms, log_teacher: Terms) -> Terms:
  """Squared log-ratio `(log t - log s)^2`, weighted by `t`."""
  return jnp.exp(log_teacher) * (log_teacher - log_student) ** 2


def kagan(log_student: Terms, log_teacher: Terms) -> Terms:
  """Kagan's divergence `(t - s)^2 / t`, also called chi squared.

  The ratio `s / t` is capped at `e^30`, so that its square does not overflow.
  """
  log_ratio = jnp.minimum(log_student - log_teacher, _LARGEST_LOG_RATIO)
  # t (s / t - 1)^2, and `expm1` keeps the digits of ratios near 1.
  return jnp.exp(log_teacher) * jnp.expm1(log_ratio) ** 2


def smoothed_kullback_leibler(epsilon: float = 1e-7) -> Divergence:
  """Smoothed relative entropy `t log((t + epsilon) / (s + epsilon))`.

  The divergence in the published code of PKT (Passalis and Tefas 2018).

  Args:
    epsilon: Constant added to the probabilities. The code of PKT has 1e-7.

  Raises:
    TypeError: If `epsilon` is not a number.
    ValueError: If `epsilon` is not positive.
  """
  checks.check_positive("epsilon", epsilon)

  def terms(log_student, log_teacher):
    student, teacher = jnp.exp(log_student), jnp.exp(log_teacher)
    return teacher * jnp.log((teacher + epsilon) / (student + epsilon))

  return terms


DIVERGENCES: dict[str, Divergence] = {
  "jeffreys": jeffreys,
  "kl": kullback_leibler,
  "abs": absolute,
  "squared": squared,
  "exponential": exponential,
  "kagan": kagan,
}
# Functions that make a divergence from a number.
PARAMETRIC_DIVERGENCES: dict[str, Callable[..., Divergence]] = {
  "smoothed_kl": smoothed_kullback_leibler,
}


# Degree of homogeneity: if all probabilities are multiplied by a factor, a term is
# multiplied by this power of the factor. Losses evaluate these divergences on scaled
# probabilities, which have more digits, and all others on the probabilities themselves.
HOMOGENEITY: dict[Divergence, int] = {
  jeffreys: 1,
  kullback_leibler: 1,
  absolute: 1,
  squared: 2,
  exponential: 1,
  kagan: 1,
}


def divergence_by_name(name: str) -> Divergence:
  """The divergence of a name.

  Args:
    name: A key of `DIVERGENCES`, or a key of `PARAMETRIC_DIVERGENCES` with an optional
      parameter after a colon, such as "smoothed_kl:1e-7".

  Raises:
    ValueError: If there is no such divergence (the message lists all), or if the
      parameter is not a number above 0.
  """
  return as_divergence(name)


def as_divergence(
  divergence: str | Divergence, *, authors: bool = False, name: str = "divergence"
) -> Divergence:
  """A divergence from a function or its name.

  Args:
    divergence: A function of this module, a function of your own with the same
      signature, or a name in the form of `divergence_by_name`.
    authors: Look names up in `authors_divergence` in place of `divergence_by_name`.
    name: Name of the argument or flag in error messages.

  Raises:
    TypeError: If `divergence` is neither a function nor a name.
    ValueError: If there is no such divergence, or its parameter is out of range.
  """
  if isinstance(divergence, str):
    if authors and divergence == "kl":
      return authors_divergence(divergence)
    return named_choices.from_text(name, divergence, _FACTORIES)
  if not callable(divergence):
    raise TypeError(
      f"{name}: expected a function of two arrays of log-probabilities, or the name of "
      f"a divergence, got {divergence!r} of type {type(divergence).__name__}"
    )
  return divergence


def _constant(divergence):
  return lambda: divergence


_FACTORIES = {
  **{name: _constant(divergence) for name, divergence in DIVERGENCES.items()},
  **PARAMETRIC_DIVERGENCES,
}


def authors_divergence(name: str, epsilon: float = 1e-6) -> Divergence:
  """A divergence exactly as in the code published with the paper.

  Only `kl` differs from the divergence of the same name in `DIVERGENCES`. The published
  code has `t log(epsilon + t / (epsilon + s))`, which is not 0 at equality.

  Args:
    name: Name of the divergence, as in `divergence_by_name`.
    epsilon: Constant of `kl`. The published code has 1e-6.

  Raises:
    ValueError: If there is no such divergence.
  """

  def kl(log_student, log_teacher):
    student, teacher = jnp.exp(log_student), jnp.exp(log_teacher)
    return teacher * jnp.log(epsilon + teacher / (epsilon + student))

  return kl if name == "kl" else divergence_by_name(name)

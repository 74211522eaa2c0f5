"""Divergences between two conditional distributions, term by term.

A divergence takes log-probabilities of student and teacher and returns the term of
every pair; the caller sums the terms of a row. All are 0 where the two agree. With
`t` and `s` the probabilities of teacher and student:

| name | term | |
|---|---|---|
| `jeffreys` | `(t - s)(log t - log s)` | Passalis et al. 2020, Eq. 5-8; symmetric |
| `kullback_leibler` | `t (log t - log s) + s - t` | the last two cancel |
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
  """`(t - s)(log t - log s)`, the paper's choice; symmetric and non-negative."""
  difference = log_teacher - log_student
  return (jnp.exp(log_teacher) - jnp.exp(log_student)) * difference


@jax.custom_jvp
def kullback_leibler(log_student: Terms, log_teacher: Terms) -> Terms:
  """`t (log t - log s) + s - t`; a row's terms sum to KL(teacher, student).

  Over a row `s - t` sums to 0. With it every term is positive and of second order in
  the difference; without it the terms are of first order and cancel, and float32 has
  no digits of the sum left when student and teacher are close.
  """
  log_ratio = log_student - log_teacher
  student, teacher = jnp.exp(log_student), jnp.exp(log_teacher)
  return jnp.where(
    jnp.abs(log_ratio) < 0.5,
    teacher * _second_order(log_ratio) * log_ratio**2,
    student - teacher - teacher * log_ratio,
  )


def _second_order(x):
  """`(exp(x) - 1 - x) / x^2` near 0 by its series, which keeps its digits."""
  series = jnp.zeros_like(x)
  highest = 13 if x.dtype == jnp.float64 else 9  # below its precision for |x| < 1/2
  for power in range(highest, 1, -1):
    series = (series * x + 1) * (1 / power)
  return series


@kullback_leibler.defjvp
def _kullback_leibler_jvp(primals, tangents):
  log_student, log_teacher = primals
  log_ratio = log_student - log_teacher
  student, teacher = jnp.exp(log_student), jnp.exp(log_teacher)
  # Near one another the difference of the two has no digits left.
  gap = jnp.where(
    jnp.abs(log_ratio) < 0.5,
    teacher * (log_ratio + _second_order(log_ratio) * log_ratio**2),
    student - teacher,
  )
  change = gap * tangents[0] - teacher * log_ratio * tangents[1]
  return kullback_leibler(*primals), change


def absolute(log_student: Terms, log_teacher: Terms) -> Terms:
  """`|t - s|`."""
  return jnp.abs(jnp.exp(log_teacher) - jnp.exp(log_student))


def squared(log_student: Terms, log_teacher: Terms) -> Terms:
  """`(t - s)^2`."""
  return (jnp.exp(log_teacher) - jnp.exp(log_student)) ** 2


def exponential(log_student: Terms, log_teacher: Terms) -> Terms:
  """`t (log t - log s)^2`."""
  return jnp.exp(log_teacher) * (log_teacher - log_student) ** 2


def kagan(log_student: Terms, log_teacher: Terms) -> Terms:
  """`(t - s)^2 / t`; the ratio `s / t` is capped at `e^30`."""
  log_ratio = jnp.minimum(log_student - log_teacher, _LARGEST_LOG_RATIO)
  return jnp.exp(log_teacher) * jnp.expm1(log_ratio) ** 2


def smoothed_kullback_leibler(epsilon: float = 1e-7) -> Divergence:
  """`t log((t + epsilon) / (s + epsilon))`, as in the published code of PKT.

  Args:
    epsilon: Added to probabilities, 1e-7 in that code.

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


# With all probabilities multiplied by a factor, a term is multiplied by this power of
# it. Functions that are not listed are evaluated on the probabilities themselves.
HOMOGENEITY: dict[Divergence, int] = {
  jeffreys: 1,
  kullback_leibler: 1,
  absolute: 1,
  squared: 2,
  exponential: 1,
  kagan: 1,
}


def divergence_by_name(name: str) -> Divergence:
  """The divergence of that name; a parameter follows a colon, "smoothed_kl:1e-7".

  Raises:
    ValueError: If there is no such divergence, which lists those there are; or if the
      parameter is not a number above 0.
  """
  return as_divergence(name)


def as_divergence(
  divergence: str | Divergence, *, authors: bool = False, name: str = "divergence"
) -> Divergence:
  """The divergence itself, or the one that a name describes.

  Args:
    divergence: A function of this module, one of your own, or a name as of
      `divergence_by_name`.
    authors: Take names for those of `authors_divergence`.
    name: Name of the argument or flag in messages.

  Raises:
    TypeError: If it is neither a function nor a name.
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

  Differs from the divergence of the same name here only for `kl`, which is
  `t log(epsilon + t / (epsilon + s))` there, and not 0 at equality.

  Raises:
    ValueError: If there is no such divergence.
  """

  def kl(log_student, log_teacher):
    student, teacher = jnp.exp(log_student), jnp.exp(log_teacher)
    return teacher * jnp.log(epsilon + teacher / (epsilon + student))

  return kl if name == "kl" else divergence_by_name(name)

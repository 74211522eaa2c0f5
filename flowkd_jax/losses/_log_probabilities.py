"""Divergences of two distributions by their log-probabilities, entry by entry.

Entries of impossible classes are minus infinity.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float


def relative_entropy(
  student_logs: Float[Array, "..."], teacher_logs: Float[Array, "..."]
) -> Float[Array, "..."]:
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

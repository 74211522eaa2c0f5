"""Conditional probabilities that rows are neighbours."""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float


@jax.custom_jvp
def conditional_log_probabilities(
  log_similarities: Float[Array, "rows columns"],
  valid: Bool[Array, "rows columns"],
  count: float | Float[Array, ""] = 1.0,
) -> Float[Array, "rows columns"]:
  """Log-probabilities `log p(j | i)`: similarities normalised over the valid columns.

  Passalis et al. 2020, Eq. 5-8: `p_{i|j} = K_ij / sum_k K_kj`. The kernels are
  symmetric, so normalising rows or columns gives the same.

  Args:
    log_similarities: Finite logarithms of similarities.
    valid: True for columns that take part. In the paper these are all columns but the
      row itself.
    count: Factor by which the probabilities are multiplied. If it is the number of
      valid columns, the result is near 0 where neighbours are almost equally likely,
      and it keeps digits that an offset of `-log(number)` would round away. It is a
      constant to the gradient.

  Returns:
    Log-probabilities, plus `log(count)`. They are 0 where `valid` is False, so that
    differences are 0 there.
  """
  masked = jnp.where(valid, log_similarities, -jnp.inf)
  top = masked.max(1, keepdims=True)
  # A row without valid columns: -inf less -inf would be NaN.
  top = jnp.where(top == -jnp.inf, 0, top)
  total = jnp.exp(masked - top).sum(1, keepdims=True)
  log_total = jnp.log(jnp.where(total == 0, 1, total / count))
  return jnp.where(valid, masked - top - log_total, 0)


@conditional_log_probabilities.defjvp
def _conditional_jvp(primals, tangents):
  """Derivative of a log-softmax from its result.

  Autodiff would also differentiate the maximum and the sum, which takes more passes
  over the matrix.
  """
  _, valid, count = primals
  logs = conditional_log_probabilities(*primals)
  change = jnp.where(valid, tangents[0], 0)
  mean = (jnp.exp(logs) * change).sum(1, keepdims=True) / count
  return logs, jnp.where(valid, change - mean, 0)


@jax.custom_jvp
def log_totals(
  log_similarities: Float[Array, "rows columns"],
  valid: Bool[Array, "rows columns"],
) -> Float[Array, " rows"]:
  """Logarithms `log sum_j K_ij` of the sums by which similarities are normalised.

  Args:
    log_similarities: Finite logarithms of similarities.
    valid: True for columns that take part in the sum.

  Returns:
    One number per row. It is 0 for a row without a valid column.
  """
  masked = jnp.where(valid, log_similarities, -jnp.inf)
  top = masked.max(1)
  top = jnp.where(top == -jnp.inf, 0, top)
  total = jnp.exp(masked - top[:, None]).sum(1)
  return top + jnp.log(jnp.where(total == 0, 1, total))


@log_totals.defjvp
def _log_totals_jvp(primals, tangents):
  logs, valid = primals
  totals = log_totals(logs, valid)
  shares = jnp.exp(jnp.where(valid, logs - totals[:, None], -jnp.inf))
  return totals, (shares * jnp.where(valid, tangents[0], 0)).sum(1)

"""Conditional probabilities of rows being neighbours."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float


def conditional_log_probabilities(
  log_similarities: Float[Array, "rows columns"],
  valid: Bool[Array, "rows columns"],
) -> Float[Array, "rows columns"]:
  """`log p(j | i)`: each row's similarities normalised over its valid columns.

  Passalis et al. 2020, Eq. 5-8, `p_{i|j} = K_ij / sum_k K_kj`; the kernels are
  symmetric, so normalising rows or columns is the same.

  Args:
    log_similarities: Finite logarithms of similarities.
    valid: Which columns take part, for the paper all but the row itself.

  Returns:
    Log-probabilities; 0 where `valid` is False, so that differences vanish there.
  """
  top = jnp.where(valid, log_similarities, -jnp.inf).max(1, keepdims=True)
  top = lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
  shifted = jnp.where(valid, log_similarities - top, 0)
  total = jnp.where(valid, jnp.exp(shifted), 0).sum(1, keepdims=True)
  log_total = jnp.log(jnp.where(total > 0, total, 1))
  return jnp.where(valid, shifted - log_total, 0)

"""Conditional probabilities of rows being neighbours, and work in row blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax import _checks


def conditional_log_probabilities(
  log_similarities: Float[Array, "rows columns"],
  valid: Bool[Array, "rows columns"],
) -> Float[Array, "rows columns"]:
  """`log p(j | i)`: each row's similarities normalised over its valid columns.

  Passalis et al. 2020, Eq. 5-6, `p_{i|j} = K_ij / sum_k K_kj`; the kernels are
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


def rows_in_blocks(
  function: Callable[..., Float[Array, " rows"]],
  block_size: int | None,
  *rows: Array,
) -> Float[Array, " batch"]:
  """Evaluates a per-row function in blocks of rows, also in the backward pass.

  Memory is that of one block: each block is recomputed when its gradient is
  taken.

  Args:
    function: Takes blocks of `rows`, returns one value a row; each value may
      depend on its own row only (and on arrays closed over).
    block_size: Rows a block; None evaluates all at once.
    *rows: Arrays that share their first axis.

  Raises:
    ValueError: If `block_size` is below 1.
  """
  if block_size is None:
    return function(*rows)
  _checks.check_positive("block_size", block_size)
  batch = rows[0].shape[0]
  if block_size >= batch:
    return function(*rows)
  padding = -batch % block_size

  def split(array):
    widths = [(0, padding)] + [(0, 0)] * (array.ndim - 1)
    padded = jnp.pad(array, widths, mode="edge")
    return padded.reshape(-1, block_size, *array.shape[1:])

  blocks = tuple(split(array) for array in rows)
  checkpointed = jax.checkpoint(lambda block: function(*block))  # type: ignore[reportPrivateImportUsage]
  return lax.map(checkpointed, blocks).reshape(-1)[:batch]

"""Relations between the tokens of one example, as in MiniLM.

Each example is compared with itself only. Masked tokens are neither queries nor keys.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import information
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import row_blocks

Mask = Shaped[Array, " batch"] | Shaped[Array, "batch tokens"] | None
REDUCTIONS = ("tokens", "rows")


class Tokens(NamedTuple):
  """Tokens of both sides in float32 or wider, with masked tokens set to zero.

  Attributes:
    student: Tokens of the student.
    teacher: Tokens of the teacher.
    real: True for real tokens.
    rows: True for examples with a real token.
  """

  student: Float[Array, "batch tokens student_dim"]
  teacher: Float[Array, "batch tokens teacher_dim"]
  real: Bool[Array, "batch tokens"]
  rows: Bool[Array, " batch"]


@meshes.on_any_mesh
def token_relations(
  student: Float[Array, "batch tokens student_dim"],
  teacher: Float[Array, "batch tokens teacher_dim"],
  *,
  relation_heads: int = 1,
  reduction: str = "tokens",
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """MiniLM's self-attention relations: KL of each token's softmax over the tokens.

  `mean_{h, i} KL(a^t_hi, a^s_hi)` with `a_hi = softmax_j(x_hi . x_hj / sqrt(d))`, where
  the width is split into `relation_heads` heads h of width d (Wang et al. 2021, section
  3). Student and teacher may differ in width, but must have the same number of tokens.
  By its reduction the loss depends neither on the batch size nor on the widths. It is
  invariant to a rotation within each head and to a permutation of tokens common to both
  sides, but neither to a shift nor to a scale.

  MiniLMv2 sums this loss over queries, keys and values, `token_relations(q_s, q_t) +
  token_relations(k_s, k_t) + token_relations(v_s, v_t)`, with the attention heads
  concatenated in the last axis. It uses 48 relation heads for teachers of width 768 and
  64 for width 1024. It reads an upper middle layer of large teachers and the last layer
  of others. MiniLM (Wang et al. 2020) has the values of the last layer and a second
  term for the attention itself.

  With "tokens" every token has the same weight, so long examples count more. "rows"
  takes the mean over the tokens of each example first. A masked token is neither a
  query nor a key. Ports that mask keys only take the mean over padded queries too.

  The time is O(B T^2 (D + H)) for B examples of T tokens, the sum D of both widths and
  H heads. The memory is that of `block_size` examples. If an example has entries above
  2^56 (in float32), the whole example is scaled down to this bound.

  Args:
    student: Student tokens: queries, keys, values or hidden states.
    teacher: Teacher tokens.
    relation_heads: Number of heads into which both widths are split, A_r in the paper.
    reduction: "tokens" is the mean over all real tokens. "rows" is the mean over
      examples of the mean over the tokens of an example.
    mask: True for real examples `[batch]`, or for real tokens `[batch, tokens]`. Masked
      entries do not count. An example without a real token is left out.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of examples evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batches, numbers of tokens or the mask disagree, an array is empty or
      of another rank, `relation_heads` does not divide a width, or `reduction` is
      unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> tokens = jnp.arange(12.0).reshape(1, 3, 4) / 10
    >>> float(token_relations(tokens, tokens, relation_heads=2))
    0.0

  References:
    Wang et al., "MiniLM: deep self-attention distillation for task-agnostic
    compression of pre-trained transformers", NeurIPS 2020.
    Wang et al., "MiniLMv2: multi-head self-attention relation distillation for
    compressing pretrained transformers", ACL Findings 2021.
  """
  checks.check_choice("reduction", reduction, REDUCTIONS)
  checks.check_count("relation_heads", relation_heads)
  check_tokens(student=student, teacher=teacher)
  _check_heads(relation_heads, student=student, teacher=teacher)
  tokens = masked_tokens(student, teacher, mask)
  number = tokens.student.shape[1]

  def row_terms(shared, block):
    del shared
    *sides, real = block
    # Masked keys have the log-probability 0 on both sides, so their terms are 0.
    logs = [_log_relations(side, real, relation_heads) for side in sides]
    terms = information.kullback_leibler(*logs)
    terms = terms.reshape(real.shape[0], relation_heads, number, number)
    each = terms.sum(3).mean(1)
    return jnp.where(real, each, 0).sum(1)

  counts = tokens.real.sum(1, dtype=tokens.student.dtype)
  weights = parallel.mean_weights(
    tokens.rows, axis_name, tokens.student, tokens.teacher
  )
  # `mean_weights` divides by the number of examples. The mean over tokens has to divide
  # by the number of all real tokens, and "rows" also by that of each example.
  if reduction == "tokens":
    rows, real = (
      parallel.global_sum(each.sum(), axis_name)
      for each in (tokens.rows.astype(counts.dtype), counts)
    )
    weights *= rows / jnp.where(real == 0, 1, real)
  else:
    weights /= jnp.where(counts == 0, 1, counts)
  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (),
    tokens[:3],
    weights,
    row_entries=relation_heads * number**2,
  )
  return parallel.global_sum(total, axis_name)


def masked_tokens(
  student: Float[Array, "batch tokens student_dim"],
  teacher: Float[Array, "batch tokens teacher_dim"],
  mask: Mask,
) -> Tokens:
  """Tokens of both sides after the mask is applied.

  Raises:
    ValueError: If the mask fits neither the examples nor the tokens.
  """
  if mask is None or np.ndim(mask) == 1:
    checks.check_mask(mask, student)
    rows = parallel.real_rows(student, mask)
    real = jnp.broadcast_to(rows[:, None], student.shape[:2])
  else:
    checks.check_shape("mask", mask, student.shape[:2])
    real = jnp.asarray(mask).astype(bool)
  student, teacher = (
    jnp.where(real[:, :, None], float32.at_least_float32(side), 0)
    for side in (student, teacher)
  )
  return Tokens(student, teacher, real, real.any(1))


def check_tokens(**arrays: Float[Array, "batch tokens dim"]) -> None:
  """Raises unless all are floating-point tokens of equal batch and token counts."""
  for name, array in arrays.items():
    checks.check_floating(name, array)
    shape = jnp.shape(array)
    if len(shape) != 3 or 0 in shape:
      raise ValueError(
        f"{name}: expected non-empty tokens of shape [batch, tokens, dim], got shape "
        f"{shape}"
      )
  checks.check_same_batch(**arrays)
  counts = {name: jnp.shape(array)[1] for name, array in arrays.items()}
  if len({*counts.values()}) > 1:
    found = " and ".join(f"{name} has {count}" for name, count in counts.items())
    raise ValueError(f"expected the same number of tokens on both sides, but {found}")


def _check_heads(heads, **arrays):
  for name, array in arrays.items():
    if array.shape[2] % heads:
      raise ValueError(
        f"relation_heads: expected a divisor of the width of the {name}, which is "
        f"{array.shape[2]}, got {heads}"
      )


def _log_relations(tokens, real, heads):
  """Log-probabilities `[batch * heads * tokens, tokens]`, with 0 for masked keys."""
  batch, number, dim = tokens.shape
  tokens = _bounded(tokens).reshape(batch, number, heads, dim // heads)
  products = jnp.einsum(
    "bihd,bjhd->bhij", tokens, tokens, precision=lax.Precision.HIGHEST
  )
  valid = jnp.broadcast_to(real[:, None, None, :], products.shape)
  logits = (products / (dim // heads) ** 0.5).reshape(-1, number)
  return information.conditional_log_probabilities(logits, valid.reshape(-1, number))


def _bounded(tokens):
  """Tokens scaled down, per example, so that no inner product overflows.

  The factor is a constant to the gradient. It is 1 for all but huge entries.
  """
  largest = float32.largest_entries(tokens)
  # A sum of up to 2^15 squares of this bound is finite.
  bound = 2.0 ** (jnp.finfo(tokens.dtype).maxexp // 2 - 8)
  return tokens / jnp.maximum(largest / bound, 1)[:, None, None]

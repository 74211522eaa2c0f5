"""Sums over the rows of a batch, block by block, forward and backward.

A loss over all pairs of rows compares a block of rows with all columns at a time. The
matrix of all pairs is never in memory.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import checks

# Entries of the matrix of a block whose size is chosen automatically. On a CPU such a
# block fits the cache. On other devices few large blocks are fastest, and the limit is
# memory.
_ENTRIES_ON_CPU, _ENTRIES_ELSEWHERE = 2**18, 2**26


def sum_over_rows(
  function: Callable[[Any, Any], Float[Array, " rows"]],
  block_size: int | None,
  shared: Any,
  rows: Any,
  weights: Float[Array, " batch"],
  *,
  row_entries: int | None = None,
) -> Float[Array, ""]:
  """Weighted sum `sum_i weights_i function(shared, rows)_i`, in blocks of rows.

  The forward pass also computes the gradient of each block. Nothing is computed twice,
  and memory holds one block and the gradients.

  Args:
    function: Function of `shared` and a block of `rows` that returns one value per row.
      A value may depend on its row, on `shared` and on arrays that the function closes
      over.
    block_size: Number of rows in a block, chosen automatically if None.
    shared: Pytree of arrays that every row needs.
    rows: Pytree of arrays that share their first axis with `weights`. If one block
      holds all rows, `function` gets this very object, which may be part of `shared`.
    weights: Weight of each row.
    row_entries: Number of entries in the arrays that `function` makes for one row, from
      which the size of a block is chosen. The default is the number of rows.

  Raises:
    ValueError: If `block_size` is below 1.
  """
  batch = weights.shape[0]

  def total(shared, rows, weights):
    return (weights * function(shared, rows)).sum()

  if one_block(batch, block_size, row_entries):
    return total(shared, rows, weights)
  if block_size is None:
    block_size = _chosen_block_size(batch, row_entries)
  blocks = jax.tree.map(lambda each: _split(each, block_size), rows)
  # Rows that fill up the last block have weight 0.
  padded = jnp.pad(weights, (0, -batch % block_size)).reshape(-1, block_size)
  shared, blocks, padded = varying_alike((shared, blocks, padded))
  # A traced array that the function closes over needs a gradient too, such as a learnt
  # parameter of a divergence. A custom derivative sees arguments alone.
  first = jax.tree.map(lambda each: each[0], (blocks, padded))
  total, closed_over = jax.closure_convert(total, shared, *first)

  def total_of_block(everything, rows, weights):
    shared, closed_over = everything
    return total(shared, rows, weights, *closed_over)

  return _sum_of_blocks(total_of_block)((shared, closed_over), blocks, padded)


def varying_alike(tree: Any) -> Any:
  """The same arrays, typed in `shard_map` as varying over the axes of any of them.

  Devices skip different blocks. The gradient of an array that does not vary over the
  devices would be summed over them within a block. That is a collective inside a
  branch, which a device that skips the block never reaches: the program would hang.
  """
  # `where(False, ...)` has the values of the array and the type of both operands. The
  # compiler removes it.
  firsts = [x.ravel()[:1].astype(jnp.float32) for x in jax.tree.leaves(tree)]
  any_of_them = lax.stop_gradient(jnp.concatenate(firsts).sum())
  return jax.tree.map(
    lambda array: jnp.where(False, any_of_them.astype(array.dtype), array), tree
  )


def rows_in_blocks(
  function: Callable[..., Float[Array, "rows ..."]],
  block_size: int | None,
  *rows: Any,
) -> Float[Array, "batch ..."]:
  """Evaluates a per-row function in blocks of rows, also in the backward pass.

  The memory is that of one block, because each block is recomputed for its gradient. If
  only a weighted sum over the rows is needed, `sum_over_rows` is faster.

  Args:
    function: Function of blocks of `rows` that returns an array with one entry per row.
      An entry may depend only on its row and on arrays that the function closes over.
    block_size: Number of rows in a block, chosen automatically if None.
    *rows: Arrays, or pytrees of arrays, that share their first axis.

  Raises:
    ValueError: If `block_size` is below 1.
  """
  batch = jax.tree.leaves(rows)[0].shape[0]
  if one_block(batch, block_size):
    return function(*rows)
  size = _chosen_block_size(batch, None) if block_size is None else block_size
  blocks = jax.tree.map(lambda array: _split(array, size), rows)
  checkpointed = jax.checkpoint(lambda block: function(*block))  # type: ignore[reportPrivateImportUsage]
  results = lax.map(checkpointed, blocks)
  return results.reshape(-1, *results.shape[2:])[:batch]


def one_block(
  batch: int, block_size: int | None, row_entries: int | None = None
) -> bool:
  """True if one block holds all rows.

  Args:
    batch: Number of rows.
    block_size: Number of rows in a block, chosen automatically if None.
    row_entries: Number of entries that a function makes per row, by default `batch`.

  Raises:
    ValueError: If `block_size` is below 1.
  """
  if block_size is not None:
    checks.check_count("block_size", block_size)
    return block_size >= batch
  return _chosen_block_size(batch, row_entries) >= batch


def all_at_once(batches: int, batch: int) -> bool:
  """True if the matrices of all pairs of several batches are small enough together.

  The limit for all of them is the size of four automatically chosen blocks.

  Args:
    batches: Number of batches.
    batch: Number of rows in each batch.
  """
  return batches * batch**2 <= 4 * _block_entries()


def _block_entries() -> int:
  on_cpu = jax.default_backend() == "cpu"
  return _ENTRIES_ON_CPU if on_cpu else _ENTRIES_ELSEWHERE


def _chosen_block_size(batch, row_entries):
  """Number of rows in a block, such that all blocks are nearly equal."""
  # The last block is filled up with copies: equal blocks waste the least on them.
  count = -(-batch * (row_entries or batch) // _block_entries())
  return -(-batch // count)


def _split(array, block_size):
  """Blocks along a new first axis, the last one filled up with copies of a row."""
  # Copies and not zeros: what is finite for a row is finite for its copy. The weight 0
  # would not help against NaN, as 0 * NaN is NaN.
  widths = [(0, -array.shape[0] % block_size)] + [(0, 0)] * (array.ndim - 1)
  padded = jnp.pad(array, widths, mode="edge")
  return padded.reshape(-1, block_size, *array.shape[1:])


def _sum_of_blocks(function):
  """Function `(shared, *blocks)` that returns the sum of `function` over the blocks.

  Reverse mode through a scan would store the intermediate arrays of every block, or
  compute each block twice. Here the derivative is a forward pass that also computes the
  gradients. It is linear in the tangents, so JAX can transpose it.
  """

  @jax.custom_jvp
  def total(shared, *blocks):
    return lax.map(lambda block: function(shared, *block), blocks).sum()

  @functools.partial(total.defjvp, symbolic_zeros=True)
  def _(primals, tangents):
    shared, blocks = primals[0], primals[1:]
    # A gradient of a constant, such as the teacher, would cost time and memory.
    moving_shared, moving_blocks = _moving(tangents[0]), _moving(tangents[1:])

    def add_block(sums, block):
      def value(shared_leaves, block_leaves):
        return function(
          _replaced(shared, moving_shared, shared_leaves),
          *_replaced(block, moving_blocks, block_leaves),
        )

      def differentiated():
        given = _chosen(shared, moving_shared), _chosen(block, moving_blocks)
        result, (more, own) = jax.value_and_grad(value, argnums=(0, 1))(*given)
        return jax.tree.map(jnp.add, sums, more), (result, own)

      def skipped():
        own = jax.tree.map(jnp.zeros_like, _chosen(block, moving_blocks))
        return sums, (jnp.zeros_like(block[-1][0]), own)

      # The last array of a block holds the weights. A block of masked rows is skipped.
      return lax.cond((block[-1] != 0).any(), differentiated, skipped)

    zeros = jax.tree.map(jnp.zeros_like, _chosen(shared, moving_shared))
    sums, (values, own) = lax.scan(add_block, zeros, blocks)
    directions = (
      *_chosen(tangents[0], moving_shared),
      *_chosen(tangents[1:], moving_blocks),
    )
    products = [(g * t).sum() for g, t in zip((*sums, *own), directions, strict=True)]
    return values.sum(), sum(products)

  return total


def _moving(tangents):
  """Indices of the leaves that have a tangent, in the order of the leaves."""
  return [
    i
    for i, tangent in enumerate(jax.tree.leaves(tangents))
    if not isinstance(tangent, SymbolicZero) and tangent.dtype != jax.dtypes.float0
  ]


def _chosen(tree, indices):
  leaves = jax.tree.leaves(tree)
  return [leaves[i] for i in indices]


def _replaced(tree, indices, values):
  leaves, structure = jax.tree.flatten(tree)
  for i, value in zip(indices, values, strict=True):
    leaves[i] = value
  return jax.tree.unflatten(structure, leaves)

"""Sums over the rows of a batch, block by block, forward and backward.

What needs all pairs takes some rows against all columns, so that no matrix of all pairs
is ever in memory.
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

# Entries of a matrix of a block that is left to choose. On a CPU those of a block stay
# in the cache; elsewhere few large blocks are best, as far as memory goes.
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
  """`sum_i weights_i function(shared, rows)_i`, in blocks of rows.

  Each block is differentiated while it is at hand: nothing is computed twice, and what
  stays in memory is one block and the gradients themselves.

  Args:
    function: Takes `shared` and a block of `rows`, returns one value a row, which may
      depend on that row, on `shared` and on arrays that it closes over.
    block_size: Rows a block; None chooses.
    shared: Arrays that every row needs, in a pytree.
    rows: Arrays that share their first axis with `weights`, in a pytree. Where it is
      `shared` or a part of it and all rows are one block, it is the same object there.
    weights: Weight of each row.
    row_entries: Entries of the arrays that `function` makes for a row, to choose the
      block by; the number of rows by default.

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
  padded = jnp.pad(weights, (0, -batch % block_size)).reshape(-1, block_size)
  # What is traced and closed over needs a gradient too, such as a learnt parameter of
  # a divergence.
  shared, blocks, padded = varying_alike((shared, blocks, padded))
  first = jax.tree.map(lambda each: each[0], (blocks, padded))
  total, closed_over = jax.closure_convert(total, shared, *first)

  def total_of_block(everything, rows, weights):
    shared, closed_over = everything
    return total(shared, rows, weights, *closed_over)

  return _sum_of_blocks(total_of_block)((shared, closed_over), blocks, padded)


def varying_alike(tree: Any) -> Any:
  """The same arrays, each varying over every axis of `shard_map` over which any does.

  Which blocks are skipped differs between devices. A gradient of what they share would
  be summed over devices within a block, where those that skip it never come.
  """
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

  Memory is that of one block: each block is recomputed when its gradient is
  taken. Where only a weighted sum over the rows is needed, `sum_over_rows` is faster.

  Args:
    function: Takes blocks of `rows`, returns an array with an entry a row, which may
      depend on that row only (and on arrays closed over).
    block_size: Rows a block; None chooses.
    *rows: Arrays that share their first axis, or pytrees of such.

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
  """True if one block holds all rows; ValueError if `block_size` is below 1."""
  if block_size is not None:
    checks.check_count("block_size", block_size)
    return block_size >= batch
  return _chosen_block_size(batch, row_entries) >= batch


def all_at_once(batches: int, batch: int) -> bool:
  """True if matrices of all pairs of so many batches together are as small as 4 blocks.

  Args:
    batches: Number of batches.
    batch: Rows of each.
  """
  return batches * batch**2 <= 4 * _block_entries()


def _block_entries() -> int:
  on_cpu = jax.default_backend() == "cpu"
  return _ENTRIES_ON_CPU if on_cpu else _ENTRIES_ELSEWHERE


def _chosen_block_size(batch, row_entries):
  """Rows a block for a batch of that size, all blocks as good as equal."""
  count = -(-batch * (row_entries or batch) // _block_entries())
  return -(-batch // count)


def _split(array, block_size):
  """Blocks along a new first axis; copies of the last row fill up the last one."""
  widths = [(0, -array.shape[0] % block_size)] + [(0, 0)] * (array.ndim - 1)
  padded = jnp.pad(array, widths, mode="edge")
  return padded.reshape(-1, block_size, *array.shape[1:])


def _sum_of_blocks(function):
  """`(shared, *blocks) -> sum over blocks of function(shared, *block)`."""

  @jax.custom_jvp
  def total(shared, *blocks):
    return lax.map(lambda block: function(shared, *block), blocks).sum()

  @functools.partial(total.defjvp, symbolic_zeros=True)
  def _(primals, tangents):
    shared, blocks = primals[0], primals[1:]
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
  """Positions of the leaves that have a tangent."""
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

"""Reductions over the classes of logits, block by block, forward and backward.

A loss over a vocabulary of 150,000 words needs sums over the words, such as the
normaliser of the softmax, and then sums of terms that contain this normaliser. Each sum
is computed over blocks of columns. The only arrays of shape `[rows, classes]` are the
logits and their gradients.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import row_blocks

# If the size of a block is chosen automatically: logits of at most `_ENTRIES` entries
# are one block, and larger ones are split into blocks of `_BLOCK_ENTRIES` entries.
_ENTRIES, _BLOCK_ENTRIES = 2**26, 2**24

Entries = Callable[
  [Sequence[Float[Array, "rows block"]], Int[Array, " block"], Any, Any], Any
]


class Level(NamedTuple):
  """One reduction over the classes.

  Attributes:
    name: Key of the result, by which later levels read it.
    entries: Function `(blocks, columns, rows, constants)` that returns a pytree of
      arrays `[rows, block]` to reduce. `blocks` holds the same columns of each side,
      `columns` holds their positions, and `rows` is a dictionary of the given values
      and of the results of earlier levels.
    largest: Take the largest entry in place of the sum. It is a constant to the
      gradient.
  """

  name: str
  entries: Entries
  largest: bool = False


def reduce_classes(
  levels: Sequence[Level],
  sides: Sequence[Float[Array, "rows classes"]],
  rows: dict[str, Any],
  constants: Any = None,
  *,
  ids: Int[Array, "rows k"] | None = None,
  block_size: int | None = None,
) -> dict[str, Any]:
  """Reductions over the classes, one level after the other.

  With several blocks, the forward pass reads the logits once per level, and the
  backward pass reads them once per side. Only reverse-mode differentiation is supported
  in this case.

  Args:
    levels: Reductions, in order.
    sides: Arrays to reduce, such as the logits of student and teacher. They have the
      same shape and may have different dtypes.
    rows: Pytrees of values per row, `[rows]`, by name. They have a gradient.
    constants: Pytree of arrays without a gradient.
    ids: Columns of the first side to return unchanged, `[rows, k]`.
    block_size: Number of classes in a block, chosen automatically if None.

  Returns:
    The result of each level by its name. With `ids` also "picked", `[rows, k]`.

  Raises:
    TypeError: If `block_size` is not a whole number.
    ValueError: If `block_size` is below 1.
  """
  number, classes = sides[0].shape
  size = _size(number, classes, block_size)
  if size >= classes:
    # Converted once and not in each level: the gradients of all levels are added in
    # float32 before they are rounded to the dtype of the side.
    sides = [float32.at_least_float32(side) for side in sides]
    return _whole(levels, sides, rows, constants) | _picked(sides, ids)
  sides, rows = row_blocks.varying_alike((tuple(sides), rows))
  return _blocked(tuple(levels), size)(sides, rows, constants, ids)


def one_block(rows: int, classes: int, block_size: int | None) -> bool:
  """True if one block holds all classes. Errors are those of `reduce_classes`."""
  return _size(rows, classes, block_size) >= classes


def _picked(sides, ids):
  return {} if ids is None else {"picked": jnp.take_along_axis(sides[0], ids, axis=1)}


def _size(rows, classes, block_size):
  if block_size is not None:
    checks.check_count("block_size", block_size)
    return int(block_size)
  if rows * classes <= _ENTRIES:
    return classes
  return max(1, _BLOCK_ENTRIES // rows)


def _whole(levels, sides, rows, constants):
  columns = jnp.arange(sides[0].shape[1], dtype=jnp.int32)
  results = {}
  for level in levels:
    entries = level.entries(sides, columns, {**rows, **results}, constants)
    results[level.name] = jax.tree.map(
      lambda each, level=level: _reduced(each, None, level.largest), entries
    )
  return results


def _reduced(entries, fresh, largest):
  """Sum or largest entry of each row over the fresh columns, or all if None."""
  if fresh is not None:
    entries = jnp.where(fresh[None, :], entries, -jnp.inf if largest else 0)
  return lax.stop_gradient(entries.max(1)) if largest else entries.sum(1)


def _blocked(levels, size):
  """The reductions with a custom backward pass in blocks.

  Autodiff would store the entries of every block, which are as large as the logits.
  Beside the arguments, the residuals here are one number per row and level, and the
  derivatives of each level with respect to the values of the same row.
  """

  @jax.custom_vjp
  def reductions(sides, rows, constants, ids):
    results = {}
    for level in levels:
      known = {**rows, **results}
      results[level.name] = _one_level(level, sides, known, constants, size)
    return results | _picked(sides, ids)

  def forward(sides, rows, constants, ids):
    results, slopes = {}, {}
    for level in levels:
      known = {**rows, **results}
      evaluate = _one_level if level.largest else _one_level_with_slopes
      found = evaluate(level, sides, known, constants, size)
      if not level.largest:
        found, slopes[level.name] = found
      results[level.name] = found
    residuals = sides, rows, constants, ids, results, slopes
    return results | _picked(sides, ids), residuals

  def backward(residuals, cotangents):
    sides, rows, constants, ids, results, slopes = residuals
    known = {**rows, **results}
    totals = {**jax.tree.map(jnp.zeros_like, rows), **cotangents}
    # The chain rule from the last level to the first: once a level is reached, its
    # cotangent is complete, as only later levels depend on it.
    for level in reversed(levels):
      if not level.largest:
        totals = _pulled(totals, level.name, slopes[level.name])
    gradients = [
      _gradient(levels, sides, i, known, constants, totals, size)
      for i in range(len(sides))
    ]
    if ids is not None:
      # `add` and not `set`: `ids` may hold a column twice.
      places = jnp.arange(len(ids), dtype=ids.dtype)[:, None], ids
      gradients[0] = gradients[0].at[places].add(totals["picked"])
    return tuple(gradients), {name: totals[name] for name in rows}, None, None

  reductions.defvjp(forward, backward)
  return reductions


def _pulled(totals, name, slopes):
  """Cotangents after one level has passed its own on to the values that it reads."""
  totals = dict(totals)
  for cotangent, slope in zip(jax.tree.leaves(totals[name]), slopes, strict=True):
    for source, values in slope.items():
      totals[source] = jax.tree.map(
        lambda total, value, c=cotangent: total + c * value, totals[source], values
      )
  return totals


def _over_blocks(step, initial, sides, size):
  """Loop over blocks: `carry = step(carry, start, blocks, columns, fresh)`.

  All blocks have the same size. If the size does not divide the number of classes, the
  last block begins earlier and overlaps the block before it. Columns of the overlap are
  not `fresh`: they read as 0 and must not count again.
  """
  classes = sides[0].shape[1]

  def body(index, carry):
    begin = index * size
    start = jnp.minimum(begin, classes - size)
    columns = start + jnp.arange(size, dtype=jnp.int32)
    fresh = columns >= begin
    blocks = tuple(
      jnp.where(fresh[None, :], _columns(side, start, size), 0) for side in sides
    )
    return step(carry, start, blocks, columns, fresh)

  return lax.fori_loop(0, -(-classes // size), body, initial)


def _one_level(level, sides, known, constants, size):
  def values(blocks, columns, fresh):
    entries = level.entries(blocks, columns, known, constants)
    return jax.tree.map(lambda each: _reduced(each, fresh, level.largest), entries)

  merge = jnp.maximum if level.largest else jnp.add

  def step(carry, start, blocks, columns, fresh):
    return jax.tree.map(merge, carry, values(blocks, columns, fresh))

  initial = _filled(values, sides, size, -jnp.inf if level.largest else 0)
  return _over_blocks(step, initial, sides, size)


def _one_level_with_slopes(level, sides, known, constants, size):
  """The sums, and the derivatives of each in what is known of its row."""

  def values(blocks, columns, fresh):
    def sums(known):
      entries = level.entries(blocks, columns, known, constants)
      return jax.tree.map(lambda each: _reduced(each, fresh, largest=False), entries)

    found, pull = jax.vjp(sums, known)
    leaves, structure = jax.tree.flatten(found)
    slopes = []
    for i in range(len(leaves)):
      # Rows are independent, so one pullback of ones holds the derivatives of all rows.
      ones = [jnp.full_like(leaf, i == j) for j, leaf in enumerate(leaves)]
      slopes.append(pull(jax.tree.unflatten(structure, ones))[0])
    return found, slopes

  def step(carry, start, blocks, columns, fresh):
    return jax.tree.map(jnp.add, carry, values(blocks, columns, fresh))

  return _over_blocks(step, _filled(values, sides, size, 0), sides, size)


def _filled(function, sides, size, value):
  """Initial carry of a loop: the shapes of a block's results, filled with one value."""
  blocks = tuple(side[:, :size] for side in sides)
  columns = jnp.arange(size, dtype=jnp.int32)
  shapes = jax.eval_shape(function, blocks, columns, columns >= 0)
  first = sides[0][:, 0]
  # In `shard_map` the carry must vary over the same axes as the sides. `where(False)`
  # gives it this type and costs nothing.
  return jax.tree.map(
    lambda each: jnp.where(False, first.astype(each.dtype), value), shapes
  )


def _gradient(levels, sides, index, known, constants, totals, size):
  """Gradient of one side, written block by block in the dtype of the side."""

  def step(gradient, start, blocks, columns, fresh):
    def total(block):
      # Converted once for all levels, as in `reduce_classes`.
      wide = float32.at_least_float32(block)
      blocks_with = (*blocks[:index], wide, *blocks[index + 1 :])
      value = 0
      for level in levels:
        if level.largest:
          continue
        entries = level.entries(blocks_with, columns, known, constants)
        for each, weight in zip(
          jax.tree.leaves(entries), jax.tree.leaves(totals[level.name]), strict=True
        ):
          value += (weight * _reduced(each, fresh, largest=False)).sum()
      return value

    own = jax.grad(total)(blocks[index])
    # Columns of the overlap keep the gradient that the block before has written.
    old = lax.dynamic_slice_in_dim(gradient, start, size, 1)
    new = jnp.where(fresh[None, :], _bits(own), old)
    return lax.dynamic_update_slice_in_dim(gradient, new, start, 1)

  side = sides[index]
  zeros = jnp.where(False, side, jnp.zeros_like(side))
  gradient = _over_blocks(step, _bits(zeros), sides, size)
  return _from_bits(gradient, side.dtype)


def _columns(side, start, size):
  # Without the barrier the compiler moves the conversion to float32 out of the loop and
  # converts the whole array.
  side, start = lax.optimization_barrier((side, start))
  block = lax.dynamic_slice_in_dim(_bits(side), start, size, 1)
  return _from_bits(block, side.dtype)


def _bits(array):
  """Half-precision values as integers on a CPU, and other arrays unchanged.

  XLA for CPUs slices half-precision arrays in float32 and converts them whole for it.
  """
  if array.dtype.itemsize > 2 or jax.default_backend() != "cpu":
    return array
  return lax.bitcast_convert_type(array, jnp.uint16)


def _from_bits(array, dtype):
  return array if array.dtype == dtype else lax.bitcast_convert_type(array, dtype)

"""Reductions over the classes of logits, block by block, forward and backward.

A loss over a vocabulary of 150,000 words needs sums over the words, such as the
normaliser of the softmax, and then sums of terms that contain it. Each sum is taken
over blocks of columns, so that no array of `[rows, classes]` is made beside the logits
and their gradients.
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

# Entries of logits up to which one block holds all, and those of a block beyond that,
# if the size is left to choose.
_ENTRIES, _BLOCK_ENTRIES = 2**26, 2**24

Entries = Callable[
  [Sequence[Float[Array, "rows block"]], Int[Array, " block"], Any, Any], Any
]


class Level(NamedTuple):
  """One reduction over the classes.

  Attributes:
    name: Key of the result, under which later levels find it.
    entries: `(blocks, columns, rows, constants) -> pytree of [rows, block]`, where
      `blocks` are the same columns of each side, `columns` their positions and `rows`
      a dictionary of the given values and of the results of the levels before.
    largest: Whether to take the largest entry, a constant to the gradient, in place of
      the sum.
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
  """Reductions over classes, one level after the other.

  With several blocks, the forward pass goes once over the logits for each level, and
  the backward pass once for each side. Only reverse-mode differentiation is supported
  then.

  Args:
    levels: Reductions, in order.
    sides: Arrays to reduce, of one shape, in their own dtypes.
    rows: Pytrees of values for each row, `[rows]`, with a gradient.
    constants: A pytree of arrays without a gradient.
    ids: Columns of the first side to return as they are.
    block_size: Number of classes in a block; None chooses.

  Returns:
    The result of each level by its name; with `ids` also "picked", `[rows, k]`.

  Raises:
    TypeError: If `block_size` is not a whole number.
    ValueError: If `block_size` is below 1.
  """
  number, classes = sides[0].shape
  size = _size(number, classes, block_size)
  if size >= classes:
    # Once, so that gradients of all levels are added before they are rounded.
    sides = [float32.at_least_float32(side) for side in sides]
    return _whole(levels, sides, rows, constants) | _picked(sides, ids)
  sides, rows = row_blocks.varying_alike((tuple(sides), rows))
  return _blocked(tuple(levels), size)(sides, rows, constants, ids)


def one_block(rows: int, classes: int, block_size: int | None) -> bool:
  """True if one block holds all classes; raises as `reduce_classes`."""
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
  """Sum or largest entry of each row, over the columns that are fresh."""
  if fresh is not None:
    entries = jnp.where(fresh[None, :], entries, -jnp.inf if largest else 0)
  return lax.stop_gradient(entries.max(1)) if largest else entries.sum(1)


def _blocked(levels, size):
  """The reductions with a backward pass in blocks."""

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
    for level in reversed(levels):
      if not level.largest:
        totals = _pulled(totals, level.name, slopes[level.name])
    gradients = [
      _gradient(levels, sides, i, known, constants, totals, size)
      for i in range(len(sides))
    ]
    if ids is not None:
      places = jnp.arange(len(ids), dtype=ids.dtype)[:, None], ids
      gradients[0] = gradients[0].at[places].add(totals["picked"])
    return tuple(gradients), {name: totals[name] for name in rows}, None, None

  reductions.defvjp(forward, backward)
  return reductions


def _pulled(totals, name, slopes):
  """Cotangents to which a level has added those of all that it depends on."""
  totals = dict(totals)
  for cotangent, slope in zip(jax.tree.leaves(totals[name]), slopes, strict=True):
    for source, values in slope.items():
      totals[source] = jax.tree.map(
        lambda total, value, c=cotangent: total + c * value, totals[source], values
      )
  return totals


def _over_blocks(step, initial, sides, size):
  """Loop over blocks: `carry = step(carry, start, blocks, columns, fresh)`.

  The last block begins earlier where the size does not divide the classes; columns that
  were in the block before are not fresh, and read as 0.
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
      # Rows do not depend on one another, so one pull has the slopes of all.
      ones = [jnp.full_like(leaf, i == j) for j, leaf in enumerate(leaves)]
      slopes.append(pull(jax.tree.unflatten(structure, ones))[0])
    return found, slopes

  def step(carry, start, blocks, columns, fresh):
    return jax.tree.map(jnp.add, carry, values(blocks, columns, fresh))

  return _over_blocks(step, _filled(values, sides, size, 0), sides, size)


def _filled(function, sides, size, value):
  """Results of a block, all with one value; they vary over devices as the sides do."""
  blocks = tuple(side[:, :size] for side in sides)
  columns = jnp.arange(size, dtype=jnp.int32)
  shapes = jax.eval_shape(function, blocks, columns, columns >= 0)
  first = sides[0][:, 0]
  return jax.tree.map(
    lambda each: jnp.where(False, first.astype(each.dtype), value), shapes
  )


def _gradient(levels, sides, index, known, constants, totals, size):
  """Gradient of one side, written block by block."""

  def step(gradient, start, blocks, columns, fresh):
    def total(block):
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
    old = lax.dynamic_slice_in_dim(gradient, start, size, 1)
    new = jnp.where(fresh[None, :], _bits(own), old)
    return lax.dynamic_update_slice_in_dim(gradient, new, start, 1)

  side = sides[index]
  zeros = jnp.where(False, side, jnp.zeros_like(side))
  gradient = _over_blocks(step, _bits(zeros), sides, size)
  return _from_bits(gradient, side.dtype)


def _columns(side, start, size):
  # Otherwise the compiler converts the whole array before the loop.
  side, start = lax.optimization_barrier((side, start))
  block = lax.dynamic_slice_in_dim(_bits(side), start, size, 1)
  return _from_bits(block, side.dtype)


def _bits(array):
  """Half precision as integers on a CPU, where XLA would slice it in float32."""
  if array.dtype.itemsize > 2 or jax.default_backend() != "cpu":
    return array
  return lax.bitcast_convert_type(array, jnp.uint16)


def _from_bits(array, dtype):
  return array if array.dtype == dtype else lax.bitcast_convert_type(array, dtype)

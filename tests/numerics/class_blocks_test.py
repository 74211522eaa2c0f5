"""Reductions over classes in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import class_blocks

ROWS, CLASSES = 3, 11


def _largest(blocks, columns, rows, constants):
  return [block.astype(jnp.float64) * rows["factor"][:, None] for block in blocks]


def _masses(blocks, columns, rows, constants):
  scores = _largest(blocks, columns, rows, constants)
  kept = columns[None, :] != constants[:, None]
  return {
    "all": jax.tree.map(lambda s, m: jnp.exp(s - m[:, None]), scores, rows["largest"]),
    "kept": jnp.where(kept, scores[0] ** 2, 0),
  }


def _products(blocks, columns, rows, constants):
  one, other = _largest(blocks, columns, rows, constants)
  return one * other / rows["masses"]["all"][0][:, None] + rows["masses"]["kept"][
    :, None
  ] * jnp.cos(other)


LEVELS = [
  class_blocks.Level("largest", _largest, largest=True),
  class_blocks.Level("masses", _masses),
  class_blocks.Level("products", _products),
]


def _problem(dtype=np.float64):
  rng = np.random.default_rng(0)
  sides = [
    jnp.asarray(rng.standard_normal((ROWS, CLASSES)), dtype=dtype) for _ in range(2)
  ]
  return sides, {"factor": jnp.asarray(rng.uniform(1, 2, ROWS))}


def _evaluate(sides, rows, *, block_size, ids=None):
  def total(sides, rows):
    constants = jnp.arange(ROWS, dtype=jnp.int32)
    results = class_blocks.reduce_classes(
      LEVELS, sides, rows, constants, ids=ids, block_size=block_size
    )
    weights = jnp.arange(1.0, 1 + ROWS)
    values = results["products"] + 3 * results["masses"]["all"][1]
    if ids is not None:
      values += (results["picked"].astype(jnp.float64) ** 3).sum(1)
    return (weights * values).sum()

  return jax.value_and_grad(total, argnums=(0, 1))(sides, rows)


@pytest.mark.parametrize("block_size", [1, 4, 10])
def test_blocks_change_neither_value_nor_gradients(block_size, x64):
  ids = jnp.array([[3, 0], [10, 9], [4, 4]], jnp.int32)
  expected, actual = (
    jax.jit(_evaluate, static_argnames="block_size")(
      *_problem(), block_size=size, ids=ids
    )
    for size in (CLASSES, block_size)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
    actual,
    expected,
  )


def test_blocks_of_half_precision_have_gradients_in_it(x64):
  sides, rows = _problem(jnp.bfloat16)
  expected, actual = (
    jax.jit(_evaluate, static_argnames="block_size")(sides, rows, block_size=size)
    for size in (CLASSES, 4)
  )
  assert all(side.dtype == jnp.bfloat16 for side in actual[1][0])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=2**-7
    ),
    actual,
    expected,
  )


def test_few_logits_are_one_block():
  assert class_blocks.one_block(4096, 1000, None)
  assert not class_blocks.one_block(4096, 151936, None)
  assert not class_blocks.one_block(8, 10, 9)
  assert class_blocks.one_block(8, 10, 10)


def test_impossible_block_sizes_are_refused():
  sides, rows = _problem(np.float32)
  with pytest.raises(ValueError, match="block_size: expected a number above 0, got 0"):
    class_blocks.reduce_classes(LEVELS, sides, rows, block_size=0)
  with pytest.raises(TypeError, match="block_size: expected a whole number above 0"):
    class_blocks.reduce_classes(LEVELS, sides, rows, block_size=2.5)

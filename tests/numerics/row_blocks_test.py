"""Sums over rows in blocks, forward, backward and beyond."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import row_blocks

ROWS, COLUMNS, WIDTH = 10, 6, 3


def _problem():
  rng = np.random.default_rng(0)
  rows, columns = (rng.standard_normal((n, WIDTH)) for n in (ROWS, COLUMNS))
  return jnp.asarray(rows), jnp.asarray(columns), jnp.asarray(rng.uniform(size=ROWS))


def _terms(shared, block):
  columns, scale = shared
  rows, positions = block
  products = jnp.sin(rows @ columns.T) * scale
  return jnp.where(positions[:, None] == 2, products**3, products).sum(1)


def _total(rows, columns, weights, block_size):
  positions = jnp.arange(ROWS, dtype=jnp.int32)
  return row_blocks.sum_over_rows(
    _terms, block_size, (columns, columns[0, 0]), (rows, positions), weights
  )


@pytest.mark.parametrize("block_size", [1, 3, 5, 10, 99])
def test_blocks_change_neither_value_nor_gradient(block_size, x64):
  rows, columns, weights = _problem()
  differentiate = jax.value_and_grad(_total, argnums=(0, 1, 2))
  blocked = jax.jit(lambda *x: differentiate(*x, block_size))(rows, columns, weights)
  terms = _terms((columns, columns[0, 0]), (rows, jnp.arange(ROWS)))
  np.testing.assert_allclose(blocked[0], (weights * terms).sum(), rtol=1e-12)
  dense = jax.grad(
    lambda r, c, w: (w * _terms((c, c[0, 0]), (r, jnp.arange(ROWS)))).sum(),
    argnums=(0, 1, 2),
  )(rows, columns, weights)
  for one, other in zip(blocked[1], dense, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_forward_mode_and_second_derivatives_are_exact(x64):
  rows, columns, weights = _problem()

  def hessian(block_size):
    function = lambda r: _total(r, columns, weights, block_size)
    return jax.hessian(function)(rows), jax.jacrev(jax.jacrev(function))(rows)

  expected = jax.jit(lambda: hessian(ROWS)[0])()
  for actual in jax.jit(lambda: hessian(4))():
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
  direction = jnp.cos(rows)
  tangents = [
    jax.jvp(
      lambda r, size=size: _total(r, columns, weights, size), (rows,), (direction,)
    )
    for size in (4, ROWS)
  ]
  np.testing.assert_allclose(*tangents, rtol=1e-12)


@pytest.mark.slow
def test_blocks_work_under_vmap_and_checkpoint(x64):
  rows, columns, weights = _problem()
  many = jnp.stack([rows, 2 * rows])

  def gradients(block_size):
    function = jax.checkpoint(lambda r, c: _total(r, c, weights, block_size))
    return jax.vmap(jax.grad(function, argnums=(0, 1)), in_axes=(0, None))(
      many, columns
    )

  for one, other in zip(jax.jit(lambda: gradients(4))(), gradients(ROWS), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_blocks_that_are_left_to_choose_are_bounded():
  size = jax.eval_shape(
    lambda x: row_blocks.rows_in_blocks(lambda block: block[:1].sum(1), None, x),
    jax.ShapeDtypeStruct((128, 2), jnp.float32),
  )
  assert size.shape == (1,)  # one block of all
  seen = []

  def function(block):
    seen.append(block.shape[0])
    return block.sum(1)

  jax.eval_shape(
    lambda x: row_blocks.rows_in_blocks(function, None, x),
    jax.ShapeDtypeStruct((4096, 2), jnp.float32),
  )
  assert set(seen) == {64}


def test_block_size_must_be_positive():
  rows, columns, weights = _problem()
  with pytest.raises(ValueError, match="block_size: expected a number above 0, got 0"):
    _total(rows, columns, weights, 0)

"""Marks within transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flowkd_jax.capture import _names
from flowkd_jax.capture import _tags

ROWS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def test_nested_loops_are_unrolled_in_the_order_of_calls():
  def function(x):
    def inner(x, factor):
      x = _tags.tag(x * factor, "inner")
      return x, x.sum()

    def outer(x, factors):
      x, sums = jax.jit(lambda x: lax.scan(inner, x, factors))(x)
      return _tags.tag((x, sums), "outer")[0], None

    return lax.scan(outer, x, jnp.arange(1.0, 7.0).reshape(3, 2))[0]

  output, found = jax.jit(lambda x: _named(function, x))(ROWS)
  factorials = np.cumprod(np.arange(1, 7))
  for number, factorial in enumerate(factorials):
    expected = factorial * ROWS
    np.testing.assert_allclose(found[f"inner/{number}"], expected, rtol=1e-5)
  for number in range(3):
    both = factorials[2 * number : 2 * number + 2]
    np.testing.assert_allclose(found[f"outer/{number}/0"], both[1] * ROWS, rtol=1e-5)
    sums = [factorial * ROWS.sum() for factorial in both]
    np.testing.assert_allclose(found[f"outer/{number}/1"], sums, rtol=1e-4)
  assert len(found) == 12
  np.testing.assert_allclose(output, 720 * ROWS, rtol=1e-5)


def _named(function, *arguments):
  output, found = _tags.harvest(function, *arguments)
  return output, _names.named(found)[1]


def test_mapped_axes_come_first_and_reverse_loops_keep_their_places():
  weights = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)

  def function(rows, weights):
    def one(row):
      product = _tags.tag(weights @ row, "product")  # its batch axis is the last
      _, kept = lax.scan(
        lambda total, x: ((t := _tags.tag(total + x, "total")), t),
        jnp.float32(0),
        product,
        reverse=True,
      )
      return kept

    return jax.vmap(one)(rows)

  kept, found = jax.jit(lambda *x: _named(function, *x))(ROWS, weights)
  products = ROWS @ weights.T
  np.testing.assert_allclose(found["product"], products, rtol=1e-4)
  np.testing.assert_allclose(found["total/1"], products[:, 1], rtol=1e-4)
  np.testing.assert_allclose(found["total/0"], products.sum(1), rtol=1e-4)
  np.testing.assert_allclose(kept[:, 0], products.sum(1), rtol=1e-4)


@pytest.mark.slow
def test_marks_in_branches_change_nothing():
  def function(x):
    branches = (lambda x: _tags.tag(2 * x, "two"), lambda x: x)
    return _tags.tag(lax.cond(x.sum() > -100, *branches, x), "after")

  @jax.jit
  def gradient(x):
    def loss(x):
      output, found = _named(function, x)
      return output.sum(), found

    return jax.grad(loss, has_aux=True)(x)

  gradients, found = gradient(ROWS)
  assert list(found) == ["after"]
  np.testing.assert_array_equal(found["after"], 2 * ROWS)
  np.testing.assert_array_equal(gradients, 2)


@pytest.mark.parametrize("wrapped", [lambda block: block, jax.jit])
def test_values_are_dropped_after_their_last_use(wrapped, monkeypatch):
  shape, alive = (5, 7, 3), []
  bind = _tags._bind

  def counting(equation, inputs):
    result = bind(equation, inputs)
    alive.append(sum(array.shape == shape for array in jax.live_arrays()))
    return result

  @wrapped
  def block(x):
    for _ in range(6):
      x, _ = jnp.sin(x), jnp.cos(x)
    return _tags.tag(x, "block")

  def function(x):
    first = jnp.exp(x)
    return block(block(first)).sum()

  monkeypatch.setattr(_tags, "_bind", counting)
  _, found = _tags.harvest(function, jnp.ones(shape))
  assert len(found) == 2
  assert len(alive) > 20
  # The argument, an input, an output, one without a use, and the first marked value.
  assert max(alive) <= 5

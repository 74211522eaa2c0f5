"""Conditional probabilities and evaluation in row blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import information


def test_probabilities_of_valid_columns_sum_to_one():
  logs = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)), jnp.float32)
  valid = jnp.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
  actual = information.conditional_log_probabilities(logs, valid)
  np.testing.assert_allclose(jnp.where(valid, jnp.exp(actual), 0).sum(1), 1, rtol=1e-6)
  np.testing.assert_array_equal(jnp.where(valid, 0, actual), 0)


def test_probabilities_of_minute_similarities_are_exact():
  logs = jnp.array([[-1e6, -1e6 - 1.0]])
  actual = information.conditional_log_probabilities(logs, jnp.ones((1, 2), bool))
  np.testing.assert_allclose(actual, jax.nn.log_softmax(jnp.array([[0.0, -1.0]])))


def test_row_without_valid_columns_has_finite_gradient():
  def total(logs):
    valid = jnp.zeros((2, 3), bool)
    return information.conditional_log_probabilities(logs, valid).sum()

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(jnp.ones((2, 3))), 0)


@pytest.mark.slow
def test_log_totals_are_those_of_the_valid_columns():
  logs = jnp.array([[-1e6, -1e6 - 1.0, 5.0], [0.0, 1.0, 2.0]])
  valid = jnp.array([[1, 1, 0], [0, 0, 0]], bool)
  totals, gradient = jax.jit(
    jax.value_and_grad(lambda x: information.log_totals(x, valid)[0])
  )(logs)
  np.testing.assert_allclose(totals, -1e6 + np.log1p(np.exp(-1)), rtol=1e-6)
  share = 1 / (1 + np.exp(-1))
  np.testing.assert_allclose(gradient[0], [share, 1 - share, 0], rtol=0.1)
  assert not gradient[1].any()
  assert information.log_totals(logs, valid)[1] == 0


@pytest.mark.parametrize("block_size", [1, 3, 4, 10, 99])
def test_rows_in_blocks_equal_all_rows_at_once(block_size):
  x = jnp.arange(30.0).reshape(10, 3)
  y = jnp.arange(10.0)

  def total(x, block_size):
    rows = information.rows_in_blocks(lambda x, y: (x**2).sum(1) * y, block_size, x, y)
    return (rows * y).sum()

  value_and_grad = jax.jit(jax.value_and_grad(total), static_argnums=1)
  expected, actual = value_and_grad(x, None), value_and_grad(x, block_size)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b), actual, expected)


def test_block_size_must_be_positive():
  with pytest.raises(ValueError, match="block_size: expected a number above 0, got 0"):
    information.rows_in_blocks(lambda x: x, 0, jnp.ones(3))

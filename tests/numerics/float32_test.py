"""Float32 at least, and powers of two as units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_at_least_float32_widens_halves(dtype):
  assert float32.at_least_float32(jnp.ones(2, dtype)).dtype == jnp.float32


def test_at_least_float32_keeps_float64(x64):
  assert float32.at_least_float32(jnp.ones(2, jnp.float64)).dtype == jnp.float64


def test_gradients_too_large_for_float16_saturate():
  loss = lambda x: (float32.at_least_float32(x) * 1e6).sum()
  gradient = jax.grad(loss)(jnp.ones(2, jnp.float16))
  assert gradient.dtype == jnp.float16
  np.testing.assert_array_equal(gradient, np.float16(65504))


def test_power_of_two_divides_without_rounding():
  sizes = jnp.array([0, 1, 3, 1e-30, 7e30, np.inf, np.nan], jnp.float32)
  powers = np.asarray(jax.jit(float32.power_of_two)(sizes))
  assert powers[0] == 1
  assert np.isnan(powers[5:]).all()
  mantissas, _ = np.frexp(powers[:5])
  np.testing.assert_array_equal(mantissas, 0.5)
  ratios = np.asarray(sizes[1:5]) / powers[1:5]
  assert ((ratios >= 1) & (ratios < 2)).all()


def test_largest_entries_are_constants_and_notice_nan():
  rows = jnp.array([[1.0, -3.0], [jnp.nan, 0.0]])
  np.testing.assert_array_equal(float32.largest_entries(rows), [3, np.nan])
  gradient = jax.grad(lambda x: float32.largest_entries(x).sum())(rows)
  np.testing.assert_array_equal(gradient, 0)

"""The kernel as an object, and the rows that it compares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import kernels


def _features(shape=(12, 7)):
  return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.slow
def test_kernel_flattens_everything_after_the_batch_axis():
  maps = jnp.asarray(_features(shape=(5, 4, 4, 3)), jnp.float32)
  rows = maps.reshape(5, -1)
  np.testing.assert_array_equal(kernels.flatten(maps), rows)
  # Two programs, whose products may differ in the last bits on an accelerator.
  kernel = jax.jit(kernels.student_t())
  np.testing.assert_allclose(kernel(maps), kernel(rows), rtol=1e-6)


def test_flatten_puts_zeros_in_place_of_masked_rows():
  maps = jnp.arange(12, dtype=jnp.bfloat16).reshape(3, 2, 2)
  rows = kernels.flatten(maps, jnp.array([1, 0, 1]))
  assert rows.dtype == jnp.float32
  np.testing.assert_array_equal(rows, [[0, 1, 2, 3], [0, 0, 0, 0], [8, 9, 10, 11]])


@pytest.mark.slow
def test_unit_rows_leave_zero_rows_at_zero():
  rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(kernels.unit_rows(rows), [[0.6, 0.8], [0, 0]])
  assert np.isfinite(jax.jit(jax.jacobian(kernels.unit_rows))(rows)).all()


@pytest.mark.slow
def test_kernel_is_a_pytree_of_its_learnt_parameters():
  kernel = jax.tree.map(lambda x: 2 * x, kernels.rbf(jnp.float32(1.0)))
  rows = jnp.asarray(_features(), jnp.float32)
  np.testing.assert_allclose(kernel(rows), kernels.rbf(2.0)(rows), rtol=1e-6)
  assert not jax.tree.leaves(kernels.student_t(2.0))

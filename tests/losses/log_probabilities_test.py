"""Divergences by their log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax.losses import _log_probabilities


def test_relative_entropy_has_finite_gradients_where_it_is_infinite():
  student = jnp.float32([-1.0, -jnp.inf, -0.5])
  teacher = jnp.float32([-0.7, -0.9, -jnp.inf])
  terms = _log_probabilities.relative_entropy(student, teacher)
  np.testing.assert_array_equal(np.isinf(terms), [False, True, False])
  np.testing.assert_allclose(terms[2], np.exp(-0.5), rtol=1e-6)
  gradients = jax.grad(
    lambda s, t: _log_probabilities.relative_entropy(s, t).sum(), argnums=(0, 1)
  )(student, teacher)
  assert all(np.isfinite(gradient).all() for gradient in gradients)

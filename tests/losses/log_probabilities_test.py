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


def test_mixture_has_derivatives_where_a_side_is_all_or_impossible():
  student = jnp.float32([-1.0, -jnp.inf, -0.5, -jnp.inf])
  teacher = jnp.float32([-0.7, -0.9, -jnp.inf, -jnp.inf])
  for share in (0.0, 0.4, 1.0):
    mixed = _log_probabilities.mixture(student, teacher, jnp.float32(share))
    expected = share * np.exp(teacher) + (1 - share) * np.exp(student)
    np.testing.assert_allclose(np.exp(mixed), expected, rtol=1e-6)
  for share in (0.0, 0.4, 1.0):
    tangents = jax.jvp(
      _log_probabilities.mixture,
      (student[:1], teacher[:1], jnp.float32(share)),
      (jnp.zeros(1), jnp.zeros(1), jnp.float32(1)),
    )
    slope = (np.exp(-0.7) - np.exp(-1.0)) / np.exp(tangents[0])
    np.testing.assert_allclose(tangents[1], slope, rtol=1e-5)


def test_weights_of_jensen_shannon_are_1_for_the_only_term_at_an_end():
  for scaled in (False, True):
    betas = jnp.float32([0.0, 0.25, 1.0])
    weights = _log_probabilities.jensen_shannon_weights(betas, scaled=scaled)
    middle = [4 / 3, 4.0] if scaled else [0.25, 0.75]
    np.testing.assert_allclose(np.stack(weights, 1), [[1, 0], middle, [0, 1]])

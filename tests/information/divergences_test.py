"""Divergences: their formulas, and that they vanish where both sides agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import information


def _log_probabilities(seed, shape=(4, 6)):
  logits = np.random.default_rng(seed).standard_normal(shape)
  return jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))


_FORMULAS = {
  "jeffreys": lambda t, s: (t - s) * np.log(t / s),
  "kl": lambda t, s: t * np.log(t / s) + s - t,
  "abs": lambda t, s: abs(t - s),
  "squared": lambda t, s: (t - s) ** 2,
  "exponential": lambda t, s: t * np.log(t / s) ** 2,
  "kagan": lambda t, s: (t - s) ** 2 / t,
}


@pytest.mark.parametrize("name", information.DIVERGENCES)
def test_divergence_equals_its_formula(name):
  student, teacher = _log_probabilities(0), _log_probabilities(1)
  s, t = np.exp(np.float64(student)), np.exp(np.float64(teacher))
  actual = information.divergence_by_name(name)(student, teacher)
  np.testing.assert_allclose(actual, _FORMULAS[name](t, s), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", information.DIVERGENCES)
def test_divergence_vanishes_at_equality(name):
  log_probabilities = _log_probabilities(0)
  divergence = information.divergence_by_name(name)
  np.testing.assert_array_equal(divergence(log_probabilities, log_probabilities), 0)


@pytest.mark.parametrize("name", information.DIVERGENCES)
def test_divergence_is_finite_between_disjoint_distributions(name):
  student = jnp.array([[0.0, -200.0]])
  teacher = jnp.array([[-200.0, 0.0]])
  divergence = information.divergence_by_name(name)
  value, gradient = jax.value_and_grad(lambda s: divergence(s, teacher).sum())(student)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()


def test_kullback_leibler_of_a_row_keeps_its_digits_between_near_distributions():
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((4, 50))
  near = logits + 1e-4 * rng.standard_normal((4, 50))
  t, s = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, near))
  actual = information.kullback_leibler(
    *(jax.nn.log_softmax(jnp.asarray(x, jnp.float32)) for x in (near, logits))
  ).sum(1)
  # Only the rounding of the logits themselves is left: 1e-7 of differences of 1e-4.
  np.testing.assert_allclose(actual, (t * np.log(t / s)).sum(1), rtol=2e-2)


def test_authors_kullback_leibler_is_not_zero_at_equality():
  half = jnp.log(jnp.array([[0.5, 0.5]]))
  value = information.authors_divergence("kl")(half, half)
  np.testing.assert_allclose(value, 0.5 * np.log(1e-6 + 0.5 / (0.5 + 1e-6)), atol=1e-7)


def test_smoothed_kullback_leibler_has_epsilon_on_both_sides():
  student, teacher = _log_probabilities(0), _log_probabilities(1)
  s, t = np.exp(student), np.exp(teacher)
  actual = information.smoothed_kullback_leibler(0.1)(student, teacher)
  np.testing.assert_allclose(actual, t * np.log((t + 0.1) / (s + 0.1)), rtol=1e-4)


def test_unknown_divergence_is_refused():
  with pytest.raises(ValueError, match="divergence: expected one of jeffreys"):
    information.divergence_by_name("jefreys")

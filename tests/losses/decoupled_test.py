"""Decoupled knowledge distillation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses


def _logits(rows=8, classes=6, seed=0):
  rng = np.random.default_rng(seed)
  return tuple(
    jnp.asarray(2 * rng.standard_normal((rows, classes)), jnp.float32) for _ in range(2)
  )


def _probabilities(logits, temperature):
  powers = np.exp(np.asarray(logits, np.float64) / temperature)
  return powers / powers.sum(1, keepdims=True)


LABELS = jnp.arange(8, dtype=jnp.int32) % 6


def _relative_entropy(s, t):
  return (t * (np.log(t) - np.log(s))).sum(1)


@pytest.mark.slow
def test_decoupled_kd_equals_its_definition():
  student, teacher = _logits()
  parts = []
  for logits in (student, teacher):
    p = _probabilities(logits, 4)
    hit = np.arange(6)[None, :] == np.asarray(LABELS)[:, None]
    target = p[hit]
    rest = p[~hit].reshape(8, 5)
    binary = np.stack([target, 1 - target], 1)
    parts.append((binary, rest / rest.sum(1, keepdims=True)))
  (s_binary, s_rest), (t_binary, t_rest) = parts
  target_terms = _relative_entropy(s_binary, t_binary)
  rest_terms = _relative_entropy(s_rest, t_rest)
  expected = 16 * (1.0 * target_terms + 8.0 * rest_terms).mean()
  loss = jax.jit(lambda s, t: losses.decoupled_kd(s, t, labels=LABELS))
  np.testing.assert_allclose(loss(student, teacher), expected, rtol=1e-5)
  # As the paper shows: with the teacher's share of the other classes for beta it is KD.
  coupled = 16 * (target_terms + t_binary[:, 1] * rest_terms).mean()
  actual = losses.knowledge_distillation(student, teacher)
  np.testing.assert_allclose(actual, coupled, rtol=1e-5)


@pytest.mark.slow
def test_decoupled_kd_is_finite_where_the_label_takes_all():
  student = jnp.float32([[200.0, -200.0], [-200.0, 200.0], [0.0, 0.0]])
  loss = lambda s, t: losses.decoupled_kd(s, t, labels=jnp.array([0, 0, 1]))
  value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  value, gradients = value_and_grad(student, -student)
  assert np.isfinite(value)
  assert all(np.isfinite(gradient).all() for gradient in gradients)

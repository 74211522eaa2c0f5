"""Optimizers from phases."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax.jobs import optimizers

pytestmark = pytest.mark.optimizer


def test_sgd_is_that_of_pytorch_with_a_rate_per_phase():
  optimizer = optimizers.sgd(
    "1@0.1,1@0.01", steps_per_epoch=2, momentum=0.9, weight_decay=0.5
  )
  rng = np.random.default_rng(0)
  expected = np.array([1.0, -2.0])
  params, buffer = jnp.asarray(expected, jnp.float32), np.zeros(2)
  state = optimizer.init(params)
  for rate in (0.1, 0.1, 0.01, 0.01):
    gradient = rng.standard_normal(2)
    updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
    params = optax.apply_updates(params, updates)
    # The update rule of PyTorch with Nesterov momentum and weight decay.
    decayed = gradient + 0.5 * expected
    buffer = 0.9 * buffer + decayed
    expected = expected - rate * (decayed + 0.9 * buffer)
    np.testing.assert_allclose(params, expected, rtol=1e-5)


def test_sgd_without_nesterov_warms_up_as_in_pytorch():
  optimizer = optimizers.sgd(
    "2@0.1,1@0.01",
    steps_per_epoch=2,
    nesterov=False,
    weight_decay=5e-4,
    warmup_epochs=1.5,
  )
  expected, buffer = np.array([1.0, -2.0]), np.zeros(2)
  params = jnp.asarray(expected, jnp.float32)
  state = optimizer.init(params)
  rng = np.random.default_rng(0)
  for rate in (0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.01, 0.01):
    gradient = rng.standard_normal(2)
    updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
    params = optax.apply_updates(params, updates)
    buffer = 0.9 * buffer + gradient + 5e-4 * expected
    expected = expected - rate * buffer
    np.testing.assert_allclose(params, expected, rtol=1e-5)


def test_sgd_decays_within_each_phase():
  optimizer = optimizers.sgd(
    "1@0.1,1@0.01", steps_per_epoch=2, decay="cosine", momentum=0.0
  )
  params = jnp.zeros(())
  state, steps = optimizer.init(params), []
  for _ in range(4):
    updates, state = optimizer.update(jnp.ones(()), state, params)
    steps.append(-float(updates))
  np.testing.assert_allclose(steps, [0.1, 0.05, 0.01, 0.005], rtol=1e-5)


def test_epochs_of_all_phases_are_added():
  assert optimizers.number_of_epochs("150@0.1,30@0.01") == 180

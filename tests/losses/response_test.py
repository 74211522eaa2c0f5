"""Losses on logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import losses


def test_cross_entropy_is_the_masked_mean_of_optax():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)
  labels = jnp.arange(6, dtype=jnp.int32) % 4
  rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  mask = jnp.array([1, 1, 0, 1, 0, 1], bool)
  np.testing.assert_allclose(
    losses.cross_entropy(logits, labels), rows.mean(), rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.cross_entropy(logits, labels, mask=mask), rows[mask].mean(), rtol=1e-6
  )


def test_cross_entropy_of_the_global_batch():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4)), jnp.float32)
  labels, mask = jnp.arange(8, dtype=jnp.int32) % 4, jnp.arange(8) < 5
  parts = [x.reshape(8, 1, *x.shape[1:]) for x in (logits, labels, mask)]
  values = jax.pmap(
    lambda *batch: losses.cross_entropy(*batch[:2], mask=batch[2], axis_name="batch"),
    axis_name="batch",
  )(*parts)
  expected = losses.cross_entropy(logits[:5], labels[:5])
  np.testing.assert_allclose(values, np.full(8, expected), rtol=1e-6)


def test_cross_entropy_without_a_valid_row_is_zero():
  value = losses.cross_entropy(
    jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), mask=jnp.zeros(2, bool)
  )
  assert value == 0


def test_cross_entropy_refuses_bad_input():
  with pytest.raises(TypeError, match="labels: expected integer"):
    losses.cross_entropy(jnp.ones((2, 3)), jnp.ones(2))
  with pytest.raises(ValueError, match="labels: expected shape"):
    losses.cross_entropy(jnp.ones((2, 3)), jnp.zeros(3, jnp.int32))

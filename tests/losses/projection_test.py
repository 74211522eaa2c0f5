"""Learnt projections: batch statistics over real rows, at any scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.losses import _projection


def _normalized(features, mask=None):
  return _projection.batch_normalized(jnp.asarray(features), mask, None)


def test_batch_statistics_are_those_of_the_real_rows():
  features = np.random.default_rng(0).normal(5, 2, (6, 4, 3)).astype(np.float32)
  real = np.array([True, True, False, True, True, False])
  kept = features[real]
  expected = (kept - kept.mean((0, 1))) / np.sqrt(kept.var((0, 1)) + 1e-5)
  actual = _normalized(features, real)
  np.testing.assert_allclose(actual[real], expected, atol=1e-5)


@pytest.mark.slow
def test_batch_statistics_are_those_of_real_positions():
  features = np.random.default_rng(0).normal(5, 2, (3, 4, 2)).astype(np.float32)
  real = np.arange(12).reshape(3, 4) % 5 != 0
  kept = features[real]
  expected = (kept - kept.mean(0)) / np.sqrt(kept.var(0) + 1e-5)
  np.testing.assert_allclose(_normalized(features, real)[real], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e12, 1e30])
def test_normalization_is_finite_at_any_scale(scale):
  rows = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
  rows[:, 1] = 1  # a constant channel
  square = lambda rows: (_normalized(rows) ** 3).sum()
  values, gradient = _normalized(scale * rows), jax.grad(square)(scale * rows)
  assert np.isfinite(values).all()
  assert np.isfinite(gradient).all()
  if scale > 1:
    expected = _normalized(rows)[:, 0]
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-4)

"""Features of a whole data set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import models
from flowkd_jax import train


def test_features_are_those_of_every_example_in_order(split):
  model = models.by_name("digits_cnn:2", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  batches = data.evaluation_batches(split, batch_size=16, mean=(128,), std=(64,))
  done = []
  features = train.FeatureExtractor(model, batches)(
    variables, lambda step, total: done.append((step, total))
  )
  images = (jnp.asarray(split.images, jnp.float32) - 128) / 64
  logits, taps = capture.apply_with_taps(model, variables, images)
  np.testing.assert_allclose(features.logits, logits, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(features.labels, split.labels)
  assert list(features.taps) == ["block_1", "block_2", "dense"]
  for name, expected in taps.items():
    np.testing.assert_allclose(features.taps[name], expected, rtol=1e-4, atol=1e-5)
  assert done == [(1, 3), (2, 3), (3, 3)]


def test_missing_tap_is_an_error(split):
  model = models.by_name("digits_cnn:2", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  batches = data.evaluation_batches(split, batch_size=16, mean=(128,), std=(64,))
  with pytest.raises(ValueError, match="has no conv"):
    train.FeatureExtractor(model, batches, taps=("conv",))(variables)

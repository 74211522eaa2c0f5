"""Features of a whole data set."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.train import _features


@pytest.mark.slow
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


class Foreign(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])

  def __call__(self, images):
    x = images[..., 0].mean(1)
    for layer in self.layers:
      x = layer(x)
    return x


@pytest.mark.slow
def test_models_of_other_frameworks_have_features_too(split):
  module = Foreign()
  model, variables = capture.from_nnx(module, taps=["layers/*"])
  batches = data.evaluation_batches(split, batch_size=16, mean=(128,), std=(64,))
  features = train.FeatureExtractor(model, batches)(variables)
  assert list(features.taps) == ["layers/0", "layers/1"]
  x = (split.images.astype(np.float32)[..., 0].mean(1) - 128) / 64
  for name, layer in zip(features.taps, module.layers, strict=True):
    x = x @ np.asarray(layer.kernel[...])
    np.testing.assert_allclose(features.taps[name], x, rtol=1e-3, atol=1e-4)
  np.testing.assert_array_equal(features.logits, features.taps["layers/1"])


@pytest.mark.slow
def test_missing_tap_is_an_error(split):
  model = models.by_name("digits_cnn:2", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  batches = data.evaluation_batches(split, batch_size=16, mean=(128,), std=(64,))
  with pytest.raises(ValueError, match="has no conv"):
    train.FeatureExtractor(model, batches, taps=("conv",))(variables)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_fewer_images_than_devices_are_evaluated(count, split):
  few = dataclasses.replace(
    split, images=split.images[:count], labels=split.labels[:count]
  )
  batches = data.evaluation_batches(few, batch_size=count, mean=(128,), std=(64,))
  model = models.by_name("digits_cnn:2", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  features = train.FeatureExtractor(model, batches)(variables)
  images = (jnp.asarray(few.images, jnp.float32) - 128) / 64
  logits, _ = capture.apply_with_taps(model, variables, images)
  np.testing.assert_allclose(features.logits, logits, rtol=1e-4, atol=1e-5)
  measured = train.evaluate_network(methods.Network(model, variables), None, batches)
  assert 0 <= measured["accuracy"] <= 1


def _large(count, side):
  rng = np.random.default_rng(0)
  large = data.Split(
    name="noise",
    split="train",
    images=rng.integers(0, 256, (count, side, side, 1), dtype=np.uint8),
    labels=rng.integers(0, 3, count).astype(np.int32),
    class_names=("a", "b", "c"),
  )
  return data.evaluation_batches(large, batch_size=count, mean=(128,), std=(64,))


@pytest.mark.slow
@pytest.mark.eight_devices
def test_batch_has_fewer_rows_if_it_would_need_too_much_memory(monkeypatch):
  """Rows are chosen by the memory of a device, and change no feature."""
  monkeypatch.setattr(_features, "_SMALL", 0)
  model = models.by_name("digits_cnn:2", num_classes=3)
  batches = _large(48, 16)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 16, 16, 1)))
  done = []
  extract = train.FeatureExtractor(model, batches)
  assert extract.planned(variables)[0] == 48
  expected = extract(variables, lambda *step: done.append(step))
  row_bytes = extract.planned(variables)[1] // 6
  monkeypatch.setattr(_features, "_MOST_BYTES", 2 * row_bytes)
  extract = train.FeatureExtractor(model, batches)
  assert extract.planned(variables) == (16, 2 * row_bytes)
  features = extract(variables, lambda *step: done.append(step))
  assert done == [(1, 1), (1, 3), (2, 3), (3, 3)]
  np.testing.assert_allclose(features.logits, expected.logits, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(features.labels, expected.labels)
  monkeypatch.setattr(_features, "_MOST_BYTES", 1)
  assert train.FeatureExtractor(model, batches).planned(variables)[0] == 8


@pytest.mark.slow
def test_small_images_are_taken_as_asked():
  model = models.by_name("digits_cnn:2", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  extract = train.FeatureExtractor(model, _large(512, 8))
  assert extract.planned(variables)[0] == 512

"""Networks applied by programs that data sets and stages share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.train import _application


def test_equal_networks_are_one_program():
  devices = jax.local_devices()[:1]
  made = [
    _application.application(model, taps, devices, "pmap")
    for model in (models.CNN(width=1), models.CNN(width=1))
    for taps in (None, (), ["dense"], ("dense",))
  ]
  assert made[0] is made[4]
  assert made[1] is made[5]
  assert made[2] is made[3] is made[6]
  assert len({*made}) == 3
  other = _application.application(models.CNN(width=2), None, devices, "pmap")
  assert other is not made[0]


class Scaled(nn.Module):
  """A module without a hash, as one of its fields is an array."""

  scale: np.ndarray

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(2)(images.reshape(len(images), -1)) * self.scale.sum()
    self.sow("intermediates", "scaled", x)
    return x


def test_modules_without_a_hash_are_applied_too():
  model, images = Scaled(np.ones(2, np.float32)), jnp.ones((1, 3, 2, 2, 1))
  variables = capture.init(model, jax.random.key(0), images[0])
  applied = _application.application(model, None, jax.local_devices()[:1], "pmap")
  logits, taps = applied(variables, images)
  np.testing.assert_array_equal(taps["scaled"], logits)
  assert applied.names == ("scaled",)


@pytest.mark.slow
def test_extractors_keep_some_taps_of_a_shared_program(batches):
  model = models.by_name("digits_cnn:1", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  images = train.PlacedImages(batches, devices=jax.local_devices()[:1])
  whole = train.FeatureExtractor(model, images)(variables)
  some = train.FeatureExtractor(model, images, keep=("dense",))(variables)
  assert [*whole.taps] == ["block_1", "block_2", "dense"]
  assert [*some.taps] == ["dense"]
  np.testing.assert_array_equal(some.taps["dense"], whole.taps["dense"])
  np.testing.assert_array_equal(some.logits, whole.logits)
  bare = train.FeatureExtractor(model, images, keep=())
  assert bare(variables).taps == {}
  outputs = bare.on_devices(variables)
  assert outputs.taps == {}
  assert len(outputs.real) == len(whole.labels)

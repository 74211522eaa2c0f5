"""A tiny data set and method, for the training loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models


@pytest.fixture
def split():
  rng = np.random.default_rng(0)
  return data.Split(
    name="noise",
    split="train",
    images=rng.integers(0, 256, (44, 8, 8, 1), dtype=np.uint8),
    labels=rng.integers(0, 3, 44).astype(np.int32),
    class_names=("a", "b", "c"),
  )


@pytest.fixture
def batches(split):
  """Three steps an epoch; the last has 12 rows and 4 of padding."""
  return data.training_batches(
    split,
    batch_size=16,
    seed=0,
    mean=(128,),
    std=(64,),
    augmentation=data.Augmentation(flip=True, padding=1),
  )


@pytest.fixture
def clean(split):
  return data.evaluation_batches(split, batch_size=16, mean=(128,), std=(64,))


@pytest.fixture
def network():
  model = models.by_name("digits_cnn:2", num_classes=3, axis_name="batch")
  images = jnp.zeros((2, 8, 8, 1))
  return methods.Network(model, capture.init(model, jax.random.key(0), images))


def applied(network, split):
  """Logits and taps of a network on the images of a split."""
  images = (jnp.asarray(split.images, jnp.float32) - 128) / 64
  model = network.model.clone(axis_name=None)
  return capture.apply_with_taps(model, network.variables, images)


@pytest.fixture
def method():
  model = models.by_name("digits_cnn:2", num_classes=3, axis_name="batch")
  return methods.supervised(model, optax.adam(1e-2))


@pytest.fixture
def toy():
  """Makes a method that trains one number; its loss may turn bad at a step."""

  def make(bad_step=None):
    def loss(variables, batch, constants, *, step, key):
      x = variables["params"]["x"]
      rows = jnp.where(batch["mask"], batch["label"], 0).sum().astype(jnp.float32)
      value = (x - 1) ** 2 + 0 * rows
      term = value if bad_step is None else jnp.where(step == bad_step, jnp.nan, value)
      return value, ({}, {"loss/conv": term})

    return methods.gradient_method(
      init_variables=lambda key, images: {"params": {"x": jnp.zeros(())}},
      loss=loss,
      optimizer=optax.sgd(0.1),
      export=lambda variables: {},
      axis_name="batch",
    )

  return make

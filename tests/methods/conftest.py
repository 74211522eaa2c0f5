"""A tiny network and batch, for methods and the training loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models


@pytest.fixture(scope="session")
def network():
  """Makes the network for a mapped axis or none."""
  return lambda axis_name=None, width=2: models.by_name(
    f"digits_cnn:{width}", num_classes=3, axis_name=axis_name
  )


@pytest.fixture
def batches():
  """Three batches of 16 rows; the last with five rows that are padding."""
  rng = np.random.default_rng(0)
  return [
    {
      "image": jnp.asarray(rng.standard_normal((16, 8, 8, 1)), jnp.float32),
      "label": jnp.asarray(rng.integers(0, 3, 16), jnp.int32),
      "mask": jnp.arange(16) < valid,
    }
    for valid in (16, 16, 11)
  ]


@pytest.fixture
def teacher(network):
  model = network(width=4)
  variables = capture.init(model, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.Network(model, variables)

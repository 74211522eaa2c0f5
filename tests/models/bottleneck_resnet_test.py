"""ResNet-50 for small images: maps and initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import models
from tests.models import network_contract
from tests.models.tiny import images_of
from tests.models.tiny import sown_shapes

TINY = models.BottleneckResNet(stage_sizes=(1, 1, 1, 1), width=2)


def test_maps_at_16_pixels():
  images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  assert sown_shapes(TINY, images, taps=(*TINY.maps, *TINY.taps)) == {
    "f0": (2, 16, 16, 2),
    "f1": (2, 16, 16, 8),
    "f2": (2, 8, 8, 16),
    "f3": (2, 4, 4, 32),
    "f4": (2, 2, 2, 64),
    "stage_1": (2, 4, 4, 8),
    "stage_2": (2, 4, 4, 16),
    "stage_3": (2, 4, 4, 32),
    "stage_4": (2, 2, 2, 64),
    "pooled": (2, 64),
  }


def test_every_first_block_projects_its_shortcut():
  model = models.BottleneckResNet(stage_sizes=(2, 2, 1, 1), width=2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images_of((1, 8, 8, 3)))
  blocks = {k for k, v in shapes["params"].items() if "shortcut" in v}
  assert blocks == {f"stage_{i}_block_1" for i in range(1, 5)}


@pytest.mark.slow
def test_initial_weights_are_those_of_repdistiller():
  model = models.BottleneckResNet(stage_sizes=(1, 1, 1, 1), width=8, num_classes=100)
  params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
  block = params["stage_4_block_1"]
  np.testing.assert_allclose(
    np.var(block["conv_3"]["conv"]["kernel"]), 2 / 256, rtol=0.05
  )
  # No BatchNorm starts at zero.
  np.testing.assert_array_equal(block["conv_3"]["norm"]["scale"], 1)
  classifier = params["classifier"]
  np.testing.assert_allclose(np.var(classifier["kernel"]), 1 / 256 / 3, rtol=0.05)
  assert 0.9 / 16 < np.abs(classifier["bias"]).max() <= 1 / 16


@pytest.mark.slow
def test_training_does_not_depend_on_devices_or_masked_images():
  network_contract.check_devices_and_mask(TINY)


@pytest.mark.slow
def test_bfloat16_and_a_batch_of_one_change_little():
  network_contract.check_precision_and_batch_of_one(TINY)

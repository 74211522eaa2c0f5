"""VGG networks: maps, initial weights, small and large images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import models
from tests.models import network_contract
from tests.models.tiny import images_of
from tests.models.tiny import sown_shapes

TINY = models.VGG(width=2)


@pytest.mark.parametrize(
  ("size", "sides"),
  [
    (8, (8, 4, 2, 1, 1)),
    (16, (16, 8, 4, 2, 2)),
    (32, (32, 16, 8, 4, 4)),
    # Images of 64 pixels are pooled once more.
    (64, (64, 32, 16, 8, 4)),
  ],
)
def test_maps_are_taken_before_the_maximum(size, sides):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  shapes = sown_shapes(TINY, images, taps=(*TINY.maps, "pooled"))
  widths = (2, 4, 8, 16, 16)
  expected = {f"f{i}": (2, sides[i], sides[i], widths[i]) for i in range(5)}
  assert shapes == {**expected, "pooled": (2, 16)}


def test_images_that_leave_no_map_are_refused():
  with pytest.raises(ValueError, match="images: VGG needs at least 8 x 8 pixels, got"):
    TINY.init(jax.random.key(0), images_of((1, 7, 8, 3)))


@pytest.mark.slow
def test_initial_weights_are_those_of_repdistiller():
  model = models.VGG(width=16, num_classes=100)
  params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 8, 8, 3)))["params"]
  convolution = params["block_4_conv_1"]["conv"]
  np.testing.assert_allclose(np.var(convolution["kernel"]), 2 / (9 * 128), rtol=0.05)
  np.testing.assert_array_equal(convolution["bias"], 0)
  np.testing.assert_allclose(np.std(params["classifier"]["kernel"]), 0.01, rtol=0.05)
  np.testing.assert_array_equal(params["classifier"]["bias"], 0)


@pytest.mark.slow
def test_training_does_not_depend_on_devices_or_masked_images():
  network_contract.check_devices_and_mask(TINY)


@pytest.mark.slow
def test_bfloat16_and_a_batch_of_one_change_little():
  network_contract.check_precision_and_batch_of_one(TINY)

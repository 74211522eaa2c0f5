"""Wide residual networks: initial weights, signs, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from tests.models import network_contract
from tests.models.tiny import images_of
from tests.models.tiny import sown_shapes

TINY = models.wide_resnet(10, 2, width=2)


def test_maps_at_16_pixels():
  images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  assert sown_shapes(TINY, images, taps=(*TINY.maps, "f3_preact", *TINY.taps)) == {
    "f0": (2, 16, 16, 2),
    "f1": (2, 16, 16, 4),
    "f2": (2, 8, 8, 8),
    "f3": (2, 4, 4, 16),
    "f3_preact": (2, 4, 4, 16),
    "stage_1": (2, 4, 4, 4),
    "stage_2": (2, 4, 4, 8),
    "stage_3": (2, 4, 4, 16),
    "pooled": (2, 16),
  }


@pytest.mark.slow
def test_maps_have_either_sign_and_are_normalised_by_the_next_layer():
  images = images_of((2, 8, 8, 3))
  variables = network_contract.spread_variables(TINY, images)
  norms = ("stage_2_block_1/norm_1", "stage_3_block_1/norm_1", "norm")
  taps = (*TINY.maps, *TINY.preactivations, *norms, "pooled")
  _, found = jax.jit(lambda v, x: capture.apply_with_taps(TINY, v, x, taps=taps))(
    variables, images
  )
  for name in TINY.maps:
    assert found[name].min() < 0 < found[name].max()
  for name, norm in zip(TINY.preactivations, norms, strict=True):
    np.testing.assert_array_equal(found[name], found[norm])
  pooled = jax.nn.relu(found["f3_preact"]).mean((1, 2))
  np.testing.assert_allclose(found["pooled"], pooled, rtol=1e-6)


def test_shortcut_is_a_convolution_only_where_the_channels_change():
  deep = models.wide_resnet(16, 1, width=4)
  shapes = jax.eval_shape(deep.init, jax.random.key(0), images_of((1, 8, 8, 3)))
  blocks = {k for k, v in shapes["params"].items() if "shortcut" in v}
  assert blocks == {"stage_2_block_1", "stage_3_block_1"}


@pytest.mark.slow
def test_initial_weights_are_those_of_repdistiller():
  model = models.wide_resnet(10, 4, width=8, num_classes=100)
  params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
  kernel = params["stage_3_block_1"]["conv_2"]["kernel"]
  np.testing.assert_allclose(np.var(kernel), 2 / (9 * 128), rtol=0.05)
  classifier = params["classifier"]
  np.testing.assert_allclose(np.var(classifier["kernel"]), 1 / 128 / 3, rtol=0.05)
  np.testing.assert_array_equal(classifier["bias"], 0)


@pytest.mark.parametrize("depth", [4, 18, 41])
def test_depths_that_do_not_exist_are_refused(depth):
  with pytest.raises(ValueError, match=rf"depth: expected 6n \+ 4 .* got {depth}"):
    models.wide_resnet(depth, 2)


@pytest.mark.slow
def test_training_does_not_depend_on_devices_or_masked_images():
  network_contract.check_devices_and_mask(TINY)


@pytest.mark.slow
def test_bfloat16_and_a_batch_of_one_change_little():
  network_contract.check_precision_and_batch_of_one(TINY)

"""ShuffleNetV2: order of channels, maps, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.models._shufflenet_v2 import SplitBlock
from tests.models import network_contract
from tests.models.tiny import images_of
from tests.models.tiny import sown_shapes

TINY = models.ShuffleNetV2(width=8, head_width=8, stage_sizes=(2, 1, 1))


@pytest.mark.slow
def test_maps_are_the_shuffled_preactivations_after_relu():
  images = images_of((2, 8, 8, 3))
  variables = network_contract.spread_variables(TINY, images)
  taps = (*TINY.maps, *TINY.preactivations)
  _, found = jax.jit(lambda v, x: capture.apply_with_taps(TINY, v, x, taps=taps))(
    variables, images
  )
  for i in (1, 2, 3):
    before = found[f"f{i}_preact"]
    assert before.min() < 0
    halves = jnp.split(jax.nn.relu(before), 2, axis=-1)
    np.testing.assert_array_equal(found[f"f{i}"][..., ::2], halves[0])
    np.testing.assert_array_equal(found[f"f{i}"][..., 1::2], halves[1])


@pytest.mark.slow
def test_block_keeps_the_first_half_of_the_channels():
  images = images_of((1, 4, 4, 6))
  block = SplitBlock()
  variables = network_contract.spread_variables(block, images, train=False, mask=None)
  result = block.apply(variables, images, train=False, mask=None)
  np.testing.assert_array_equal(result[..., :3], images[..., :3])
  assert (result[..., 3:] != images[..., 3:]).any()


@pytest.mark.parametrize(("size", "sides"), [(16, (16, 8, 4, 2)), (1, (1,) * 4)])
def test_maps(size, sides):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  shapes = sown_shapes(TINY, images, taps=(*TINY.maps, "pooled"))
  widths = (24, 8, 16, 32)
  expected = {f"f{i}": (2, sides[i], sides[i], widths[i]) for i in range(4)}
  assert shapes == {**expected, "pooled": (2, 8)}


@pytest.mark.slow
def test_initial_weights_are_those_of_pytorch():
  model = models.ShuffleNetV2(width=32, stage_sizes=(1, 1, 1), num_classes=100)
  params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
  kernel = params["stage_3_block_1"]["conv_5"]["conv"]["kernel"]
  limit = 1 / np.sqrt(64)
  assert 0.95 * limit < np.abs(kernel).max() <= limit
  np.testing.assert_allclose(np.var(kernel), limit**2 / 3, rtol=0.05)
  np.testing.assert_allclose(
    np.var(params["classifier"]["kernel"]), 1 / 1024 / 3, rtol=0.05
  )


def test_odd_widths_are_refused():
  with pytest.raises(ValueError, match="width: expected an even number, .* got 7"):
    TINY.clone(width=7).init(jax.random.key(0), images_of((1, 8, 8, 3)))


@pytest.mark.slow
def test_training_does_not_depend_on_devices_or_masked_images():
  network_contract.check_devices_and_mask(TINY)


@pytest.mark.slow
def test_bfloat16_and_a_batch_of_one_change_little():
  network_contract.check_precision_and_batch_of_one(TINY)

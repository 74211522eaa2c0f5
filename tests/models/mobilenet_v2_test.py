"""MobileNetV2: maps, initial weights, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import models
from flowkd_jax.models._mobilenet_v2 import InvertedResidual
from tests.models import network_contract
from tests.models.tiny import images_of
from tests.models.tiny import sown_shapes

TINY = models.MobileNetV2(width=4, head_width=8, group_sizes=(1, 1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize(("size", "sides"), [(16, (8, 8, 4, 2, 1)), (1, (1,) * 5)])
def test_maps_are_those_after_groups_2_3_5_and_7(size, sides):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  shapes = sown_shapes(TINY, images, taps=(*TINY.maps, *TINY.preactivations, "pooled"))
  widths = (4, 3, 4, 12, 40)
  expected = {f"f{i}": (2, sides[i], sides[i], widths[i]) for i in range(5)}
  before = {f"f{i}_preact": expected[f"f{i}"] for i in range(1, 5)}
  assert shapes == {**expected, **before, "pooled": (2, 8)}


def test_input_is_added_where_channels_and_stride_allow():
  model = models.MobileNetV2(width=16)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images_of((1, 8, 8, 3)))
  widths = {
    name: (block["conv_1"]["conv"]["kernel"].shape[2:], block["conv_3"]["conv"])
    for name, block in shapes["params"].items()
    if name.startswith("group")
  }
  # The first group keeps the width within, and halves the channels.
  assert widths["group_1_block_1"][0] == (16, 16)
  assert widths["group_1_block_1"][1]["kernel"].shape[3] == 8
  assert widths["group_2_block_2"][0] == (12, 72)
  assert len(widths) == 17


@pytest.mark.slow
def test_residual_is_the_input_where_nothing_else_comes():
  images = images_of((1, 4, 4, 4))
  block = InvertedResidual(width=4)
  variables = network_contract.spread_variables(block, images, train=False, mask=None)
  silent = jax.tree.map(jnp.zeros_like, variables)
  result = block.apply(silent, images, train=False, mask=None)
  np.testing.assert_array_equal(result, images)
  wider = InvertedResidual(width=4, stride=2)
  result = wider.apply(silent, images, train=False, mask=None)
  np.testing.assert_array_equal(result, jnp.zeros((1, 2, 2, 4)))


@pytest.mark.slow
def test_initial_weights_are_those_of_repdistiller():
  model = TINY.clone(width=32, num_classes=100)
  params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
  depthwise = params["group_7_block_1"]["conv_2"]["conv"]["kernel"]
  assert depthwise.shape == (3, 3, 1, 960)
  np.testing.assert_allclose(np.var(depthwise), 2 / (9 * 960), rtol=0.05)
  np.testing.assert_allclose(np.std(params["classifier"]["kernel"]), 0.01, rtol=0.1)
  np.testing.assert_array_equal(params["classifier"]["bias"], 0)


def test_a_width_without_a_first_group_is_refused():
  with pytest.raises(ValueError, match="width: expected 2 or more, .* got 1"):
    models.MobileNetV2(width=1).init(jax.random.key(0), images_of((1, 8, 8, 3)))


@pytest.mark.slow
def test_training_does_not_depend_on_devices_or_masked_images():
  network_contract.check_devices_and_mask(TINY, size=32)


@pytest.mark.slow
def test_bfloat16_and_a_batch_of_one_change_little():
  network_contract.check_precision_and_batch_of_one(TINY)

"""ShuffleNet: order of channels, shortcut, maps, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import models
from flowkd_jax.models import _shufflenet_v1
from tests.models import network_contract
from tests.models.tiny import images_of
from tests.models.tiny import sown_shapes

TINY = models.ShuffleNetV1(width=36, stage_sizes=(2, 1, 1))


def test_channels_take_turns():
  x = jnp.arange(2.0 * 6).reshape(2, 1, 1, 6)
  for groups, order in ((2, [0, 3, 1, 4, 2, 5]), (3, [0, 2, 4, 1, 3, 5])):
    taken = x[..., jnp.array(order)]
    np.testing.assert_array_equal(_shufflenet_v1.shuffled(x, groups), taken)
  np.testing.assert_array_equal(_shufflenet_v1.shuffled(x, 1), x)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4, 5])
def test_shortcut_is_the_mean_with_zeros_around_the_map(size):
  x = images_of((2, size, size, 3))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
  expected = windows[:, ::2, ::2].mean((-1, -2))
  halve = jax.jit(_shufflenet_v1._halved)
  np.testing.assert_allclose(halve(x), expected, atol=1e-6)
  gradient = jax.jit(jax.grad(lambda x: halve(x).sum()))(x)
  assert 0 < gradient.min() <= gradient.max() < 0.5
  assert halve(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("size", "sides"), [(16, (16, 8, 4, 2)), (1, (1,) * 4)])
def test_maps(size, sides):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  shapes = sown_shapes(TINY, images, taps=(*TINY.maps, "pooled"))
  widths = (24, 36, 72, 144)
  expected = {f"f{i}": (2, sides[i], sides[i], widths[i]) for i in range(4)}
  assert shapes == {**expected, "pooled": (2, 144)}


@pytest.mark.slow
def test_initial_weights_are_those_of_pytorch():
  model = models.ShuffleNetV1(width=120, stage_sizes=(1, 1, 1), num_classes=100)
  params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
  kernel = params["stage_3_block_1"]["conv_1"]["conv"]["kernel"]
  assert kernel.shape == (1, 1, 80, 60)
  limit = 1 / np.sqrt(80)
  assert 0.95 * limit < np.abs(kernel).max() <= limit
  depthwise = params["stage_3_block_1"]["conv_2"]["conv"]["kernel"]
  assert 0.9 / 3 < np.abs(depthwise).max() <= 1 / 3
  classifier = params["classifier"]
  np.testing.assert_allclose(np.var(classifier["kernel"]), 1 / 480 / 3, rtol=0.05)
  assert classifier["bias"].any()


@pytest.mark.parametrize("width", [12, 24, 100])
def test_widths_that_do_not_split_are_refused(width):
  match = rf"width: expected a multiple of 12 above 24, .* got {width}"
  with pytest.raises(ValueError, match=match):
    TINY.clone(width=width).init(jax.random.key(0), images_of((1, 8, 8, 3)))


@pytest.mark.slow
def test_training_does_not_depend_on_devices_or_masked_images():
  network_contract.check_devices_and_mask(TINY)


@pytest.mark.slow
def test_bfloat16_and_a_batch_of_one_change_little():
  network_contract.check_precision_and_batch_of_one(TINY)

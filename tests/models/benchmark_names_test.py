"""Sizes, costs and activations of the networks of the CIFAR-100 benchmark."""

import jax
import jax.numpy as jnp
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.models._benchmark_names import BENCHMARK_NETWORKS

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
THIN = [(16, 32), (16, 32), (32, 16), (64, 8)]
WIDER = [(32, 32), (64, 16), (128, 8)]
VGG = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]
WIDE = [(32, 32), (64, 32), (128, 16), (256, 8)]

# Parameters, millions of multiply-adds (of convolutions and the linear layer), channels
# and side of f0, f1, ..., and width of the pooled vector, for 100 classes: counted in
# RepDistiller's code.
SIZES = {
  "resnet8x1": (83_892, 12.51, THIN, 64),
  "resnet14x1": (181_108, 26.66, THIN, 64),
  "resnet20x1": (278_324, 40.82, THIN, 64),
  "resnet32x1": (472_756, 69.13, THIN, 64),
  "resnet44x1": (667_188, 97.44, THIN, 64),
  "resnet56x1": (861_620, 125.75, THIN, 64),
  "resnet110x1": (1_736_564, 253.16, THIN, 64),
  "resnet8x4": (1_233_540, 177.07, WIDE, 256),
  "resnet32x4": (7_433_860, 1083.04, WIDE, 256),
  "wrn_16_1": (180_916, 26.66, THIN, 64),
  "wrn_16_2": (703_284, 101.12, [(16, 32), *WIDER], 128),
  "wrn_40_1": (569_780, 83.29, THIN, 64),
  "wrn_40_2": (2_255_156, 327.61, [(16, 32), *WIDER], 128),
  "vgg8": (3_965_028, 96.19, VGG, 512),
  "vgg11": (9_277_284, 209.44, VGG, 512),
  "vgg13": (9_462_180, 284.94, VGG, 512),
  "vgg16": (14_774_436, 398.18, VGG, 512),
  "vgg19": (20_086_692, 511.43, VGG, 512),
  "mobilenet_v2": (
    *(812_836, 6.52),
    [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)],
    1280,
  ),
  "shufflenet_v1": (949_258, 38.69, [(24, 32), (240, 16), (480, 8), (960, 4)], 960),
  "shufflenet_v2": (1_355_528, 44.50, [(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
  "resnet50": (
    *(23_705_252, 1298.01),
    [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)],
    2048,
  ),
}


def _description(name):
  """Parameters, multiply-adds, shapes of the taps, and the network."""
  model = models.by_name(name, num_classes=100)
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  size = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
  taps = {tap.name: tap for tap in capture.list_taps(model, shapes, IMAGES)}
  pooled = taps["pooled"]
  mega = (pooled.row_flops / 2 + pooled.width * 100) / 1e6
  return size, mega, {name: tap.shape for name, tap in taps.items()}, model


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_networks_have_the_published_sizes_and_maps(name):
  parameters, expected_mega, maps, width = SIZES[name]
  size, mega, shapes, model = _description(name)
  assert size == parameters
  assert round(mega, 2) == expected_mega
  expected = {f"f{i}": (2, h, h, c) for i, (c, h) in enumerate(maps)}
  assert model.maps == tuple(expected)
  assert {tap: shapes[tap] for tap in model.maps} == expected
  assert [shapes[tap] for tap in model.preactivations] == [*expected.values()][1:]
  assert shapes["pooled"] == (2, width)


def test_every_network_of_the_benchmark_has_its_sizes_here():
  assert {*BENCHMARK_NETWORKS} == {*SIZES}


@pytest.mark.parametrize("name", BENCHMARK_NETWORKS)
def test_networks_say_their_width(name):
  make, width = BENCHMARK_NETWORKS[name]
  assert models.by_name(name) == models.by_name(f"{name}:{width}") == make(width=width)
  thin = models.by_name(f"{name}:{2 * width}", axis_name="batch", dtype=jnp.bfloat16)
  assert thin != models.by_name(name)
  assert (thin.axis_name, thin.dtype) == ("batch", jnp.bfloat16)

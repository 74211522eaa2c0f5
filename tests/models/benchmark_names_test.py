"""Sizes, costs and activations of the networks of the CIFAR-100 benchmark."""

import jax
import jax.numpy as jnp
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.models._benchmark_names import BENCHMARK_NETWORKS

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
THIN = [(16, 32), (16, 32), (32, 16), (64, 8)]
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

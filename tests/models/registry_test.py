"""Networks by name."""

import jax.numpy as jnp
import pytest

from flowkd_jax import models


def test_networks_have_short_names_and_widths():
  assert models.by_name("cnn1") == models.CNN()
  assert models.by_name("cnn1:16", num_classes=7) == models.CNN(width=16, num_classes=7)
  assert models.by_name("resnet18") == models.resnet18()
  small = models.by_name("digits_resnet:4", dtype=jnp.bfloat16, axis_name="batch")
  assert (small.stage_sizes, small.width, small.axis_name) == ((1, 1), 4, "batch")
  assert models.by_name("digits_cnn").num_blocks == 2
  assert models.by_name("resnet20", num_classes=7) == models.CifarResNet(num_classes=7)
  deep = models.by_name("resnet110:8", axis_name="batch")
  assert (deep.num_blocks, deep.widths, deep.stem_width) == (18, (8, 16, 32), 8)
  assert deep.axis_name == "batch"
  strided = models.by_name("strided_resnet8:4")
  assert strided == models.cifar_resnet(8, width=4, stem_stride=2)
  wide = models.by_name("resnet8x4:2", num_classes=7)
  assert (wide.num_blocks, wide.stem_width, wide.widths) == (1, 2, (4, 8, 16))
  assert wide.initializer == models.by_name("resnet20x1").initializer == "fan_out"
  assert models.by_name("vit") == models.VisionTransformer()
  small = models.by_name("digits_vit:8", num_classes=3)
  assert (small.width, small.depth, small.patch_size) == (8, 4, 2)
  assert models.by_name("latent_cnn:3") == models.LatentCNN(width=3)


@pytest.mark.parametrize(
  ("name", "match"),
  [
    ("cnn2", "network: expected one of 'cnn1', .* got 'cnn2'"),
    ("cnn1:0", "expected cnn1:WIDTH with a positive integer, got 'cnn1:0'"),
    ("cnn1:wide", "positive integer"),
  ],
)
def test_unknown_networks_are_refused(name, match):
  with pytest.raises(ValueError, match=match):
    models.by_name(name)

"""Names of layers in PyTorch."""

import pytest

from flowkd_jax import models
from flowkd_jax.models import _torch_names
from tests.models.tiny import TINY


def test_layers_of_a_cifar_resnet_have_the_names_of_repdistiller():
  names = _torch_names.layer_names(TINY)
  assert [*names.items()][0] == ("stem/conv", "conv1")
  assert names["stem/norm"] == "bn1"
  assert names["body/stage_2_block_1/conv_2/norm"] == "layer2.0.bn2"
  assert names["body/stage_2_block_1/shortcut/norm"] == "layer2.0.downsample.1"
  assert names["body/classifier"] == "fc"


@pytest.mark.parametrize(
  ("name", "ours", "theirs"),
  [
    ("wrn_40_2", "stage_3_block_1/shortcut", "block3.layer.0.convShortcut"),
    ("vgg13", "block_2_conv_2/norm", "block2.4"),
    ("mobilenet_v2", "group_6_block_3/conv_2/conv", "blocks.5.2.conv.3"),
    ("mobilenet_v2", "classifier", "classifier.0"),
    ("shufflenet_v1", "stage_2_block_8/conv_3/norm", "layer2.7.bn3"),
    ("shufflenet_v2", "stage_3_block_1/conv_5/conv", "layer3.0.conv5"),
    ("shufflenet_v2", "head/norm", "bn2"),
    ("resnet50", "stage_4_block_1/shortcut/norm", "layer4.0.shortcut.1"),
  ],
)
def test_layers_have_the_names_of_repdistiller(name, ours, theirs):
  assert _torch_names.layer_names(models.by_name(name))[ours] == theirs


def test_networks_without_names_are_refused():
  with pytest.raises(TypeError, match="model: expected a CNN, .*, got LatentCNN"):
    _torch_names.layer_names(models.LatentCNN())

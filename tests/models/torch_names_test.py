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


def test_networks_without_names_are_refused():
  with pytest.raises(TypeError, match="model: expected a CNN, .*, got LatentCNN"):
    _torch_names.layer_names(models.LatentCNN())

"""Registry of networks by a short name such as "cnn1:16" or "resnet18"."""

import functools
from collections.abc import Callable
from typing import Any

from flowkd_jax._numerics.checks import check_choice
from flowkd_jax.models._benchmark_names import BENCHMARK_NETWORKS
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cifar_resnet import cifar_resnet
from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._latent import LatentCNN
from flowkd_jax.models._resnet import PreActResNet
from flowkd_jax.models._vit import VisionTransformer

Named = (
  CNN | LatentCNN | PreActResNet | CifarResNet | BenchmarkNetwork | VisionTransformer
)

_DEPTHS = (8, 14, 20, 32, 44, 56, 110)

# By name: function from a width to a network, and the default width.
_NETWORKS: dict[str, tuple[Callable[..., Named], int]] = {
  "cnn1": (CNN, 8),
  "digits_cnn": (lambda **options: CNN(num_blocks=2, padding="SAME", **options), 8),
  "resnet18": (PreActResNet, 64),
  "digits_resnet": (lambda **options: PreActResNet(stage_sizes=(1, 1), **options), 32),
  **{
    f"resnet{depth}": (functools.partial(cifar_resnet, depth), 16) for depth in _DEPTHS
  },
  **{
    f"strided_resnet{depth}": (
      functools.partial(cifar_resnet, depth, stem_stride=2),
      16,
    )
    for depth in _DEPTHS
  },
  **BENCHMARK_NETWORKS,
  "latent_cnn": (LatentCNN, 6),
  "vit": (VisionTransformer, 128),
  "digits_vit": (functools.partial(VisionTransformer, depth=4, patch_size=2), 64),
}

NAMES = tuple(_NETWORKS)


def by_name(name: str, **options: Any) -> Named:
  """Make a network from "NAME" or "NAME:WIDTH".

  General networks, whose width is the number of channels of the first block:

  * "cnn1": the paper's CNN1; "cnn1:16" is its CNN1-A
  * "resnet18": the paper's pre-activation ResNet-18
  * "resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110":
    ResNets for small images
  * "strided_resnet8" to "strided_resnet110": ResNets with a stem of stride 2, for
    example for images of 64 pixels
  * "vit": a vision transformer; here the width is that of a token
  * "digits_cnn", "digits_resnet", "digits_vit": networks for the 8x8 digits
  * "latent_cnn": network of the clients in federated learning

  Networks of the CIFAR-100 benchmark of RepDistiller and mdistiller, whose width is the
  number of channels of the first layer ("resnet8x4:32", "wrn_40_2:16"), or of the first
  stage for ShuffleNets:

  * "resnet8x4", "resnet32x4", and "resnet8x1" to "resnet110x1", which are "resnet8" to
    "resnet110" with the initialisation of RepDistiller
  * "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"
  * "vgg8", "vgg11", "vgg13", "vgg16", "vgg19"
  * "mobilenet_v2" (half width), "shufflenet_v1", "shufflenet_v2"
  * "resnet50": bottleneck blocks that end in ReLU, unlike those of "resnet18"

  Args:
    name: Name of the network, with or without a width.
    **options: Further fields of the module: `num_classes`, `dtype`, `axis_name`.

  Raises:
    ValueError: If there is no such network or the width is not a positive integer.

  Example:
    >>> student = by_name("wrn_16_2", num_classes=100)
    >>> student.taps
    ('stage_1', 'stage_2', 'stage_3', 'pooled')
    >>> student.maps
    ('f0', 'f1', 'f2', 'f3')
    >>> student.preactivations
    ('f1_preact', 'f2_preact', 'f3_preact')
  """
  short, _, width = name.partition(":")
  check_choice("network", short, NAMES)
  make, default = _NETWORKS[short]
  if not width:
    return make(width=default, **options)
  if not width.isdecimal() or int(width) < 1:
    raise ValueError(
      f"network: expected {short}:WIDTH with a positive integer, got {name!r}"
    )
  return make(width=int(width), **options)

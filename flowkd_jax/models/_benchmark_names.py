"""Networks of the CIFAR-100 benchmark of RepDistiller and mdistiller, by name.

The names are those of RepDistiller, unless they are taken: "resnet20" is a network with
another initialisation, so the network of RepDistiller is "resnet20x1".
"""

import functools
from collections.abc import Callable
from typing import Any

from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._bottleneck_resnet import BottleneckResNet
from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cifar_resnet import cifar_resnet
from flowkd_jax.models._mobilenet_v2 import MobileNetV2
from flowkd_jax.models._shufflenet_v1 import ShuffleNetV1
from flowkd_jax.models._shufflenet_v2 import ShuffleNetV2
from flowkd_jax.models._vgg import VGG
from flowkd_jax.models._wide_resnet import wide_resnet

Benchmark = CifarResNet | BenchmarkNetwork

_DEPTHS = (8, 14, 20, 32, 44, 56, 110)


def _resnet_x1(depth: int, *, width: int, **options: Any) -> CifarResNet:
  return cifar_resnet(depth, width=width, initializer="fan_out", **options)


def _resnet_x4(depth: int, *, width: int, **options: Any) -> CifarResNet:
  """ResNet with four times the stage widths of x1, and twice its stem width."""
  return _resnet_x1(depth, width=2 * width, stem_width=width, **options)


def _vgg(num_convolutions: tuple[int, int, int, int, int]) -> Callable[..., VGG]:
  return functools.partial(VGG, num_convolutions=num_convolutions)


# By name: function from the width of the first layer or stage to a network, and the
# width in RepDistiller.
BENCHMARK_NETWORKS: dict[str, tuple[Callable[..., Benchmark], int]] = {
  **{f"resnet{n}x1": (functools.partial(_resnet_x1, n), 16) for n in _DEPTHS},
  **{f"resnet{n}x4": (functools.partial(_resnet_x4, n), 32) for n in (8, 32)},
  **{
    f"wrn_{depth}_{factor}": (functools.partial(wide_resnet, depth, factor), 16)
    for depth in (16, 40)
    for factor in (1, 2)
  },
  "vgg8": (_vgg(num_convolutions=(1, 1, 1, 1, 1)), 64),
  "vgg11": (_vgg(num_convolutions=(1, 1, 2, 2, 2)), 64),
  "vgg13": (_vgg(num_convolutions=(2, 2, 2, 2, 2)), 64),
  "vgg16": (_vgg(num_convolutions=(2, 2, 3, 3, 3)), 64),
  "vgg19": (_vgg(num_convolutions=(2, 2, 4, 4, 4)), 64),
  "mobilenet_v2": (MobileNetV2, 16),
  "shufflenet_v1": (ShuffleNetV1, 240),
  "shufflenet_v2": (ShuffleNetV2, 116),
  "resnet50": (BottleneckResNet, 64),
}

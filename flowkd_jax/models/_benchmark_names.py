"""Networks of the CIFAR-100 benchmark of RepDistiller and mdistiller, by name.

Names are theirs where they are free: "resnet20" is here initialised in another way, so
the network of RepDistiller is "resnet20x1".
"""

import functools
from typing import Any

from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cifar_resnet import cifar_resnet

_DEPTHS = (8, 14, 20, 32, 44, 56, 110)


def _resnet_x1(depth: int, *, width: int, **options: Any) -> CifarResNet:
  return cifar_resnet(depth, width=width, initializer="fan_out", **options)


def _resnet_x4(depth: int, *, width: int, **options: Any) -> CifarResNet:
  """Stages four times as wide as those of x1, behind a stem twice as wide."""
  return _resnet_x1(depth, width=2 * width, stem_width=width, **options)


# Name: how it is made from a width, that of the first layer, and the published width.
BENCHMARK_NETWORKS: dict[str, tuple[functools.partial[CifarResNet], int]] = {
  **{f"resnet{n}x1": (functools.partial(_resnet_x1, n), 16) for n in _DEPTHS},
  **{f"resnet{n}x4": (functools.partial(_resnet_x4, n), 32) for n in (8, 32)},
}

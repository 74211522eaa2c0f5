"""Residual networks for small images (He et al., "Deep Residual Learning").

https://arxiv.org/abs/1512.03385, section 4.2: a narrow stem and three stages of n
blocks, 6n + 2 layers in all. Stem and body are separate modules, so that other networks
can put several bodies on one stem, or on the maps of another body.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax._numerics.checks import check_choice
from flowkd_jax.models._benchmark_network import Activations
from flowkd_jax.models._benchmark_network import Maps
from flowkd_jax.models._benchmark_network import convolved
from flowkd_jax.models._benchmark_network import map_names
from flowkd_jax.models._benchmark_network import preactivation_names
from flowkd_jax.models._benchmark_network import sow_activations
from flowkd_jax.models._benchmark_network import tap_names
from flowkd_jax.models._building_blocks import dense
from flowkd_jax.models._building_blocks import fan_out_initializer
from flowkd_jax.models._building_blocks import prepare_images

_XAVIER = nn.initializers.xavier_normal()
# By name: initializer of the convolutions, and options of the linear layer.
_INITIALIZERS = {
  "xavier": (_XAVIER, {"kernel_init": _XAVIER, "bias_init": nn.initializers.zeros}),
  "fan_out": (fan_out_initializer, {}),
}


class ResidualBlock(nn.Module):
  """Residual block: two 3x3 convolutions and a shortcut.

  ReLU follows the first convolution and the sum. If the shape changes, the shortcut is
  a 1x1 convolution with BatchNorm (option B of the paper). Attributes are those of
  `NormalizedConvolution`; `initializer` is that of `CifarResNet`.
  """

  width: int
  stride: int = 1
  initializer: str = "xavier"
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Maps,
    train: bool,
    mask: Bool[Array, " batch"] | None,
    sums: list[Maps] | None = None,
  ) -> Maps:
    """Apply the block.

    Args:
      x: Maps.
      train: See `CifarResNet`.
      mask: See `CifarResNet`.
      sums: List to which the sum before the last ReLU is appended. It is not returned,
        because the output of the block is a tap of its own.
    """

    def convolve(x, name, **options):
      kernel_init = _INITIALIZERS[self.initializer][0]
      options |= {"kernel_init": kernel_init, "name": name}
      return convolved(self, x, self.width, train, mask, **options)

    shortcut = x
    if self.stride != 1 or x.shape[-1] != self.width:
      shortcut = convolve(x, "shortcut", kernel_size=1, stride=self.stride)
    x = nn.relu(convolve(x, "conv_1", stride=self.stride))
    x = convolve(x, "conv_2") + shortcut
    if sums is not None:
      sums.append(x)
    return nn.relu(x)


class StageMaps(NamedTuple):
  """Maps of each stage of a body.

  Attributes:
    maps: Output of each stage.
    preactivations: Output of each stage before its last ReLU.
  """

  maps: Sequence[Maps]
  preactivations: Sequence[Maps]


class ResNetBody(nn.Module):
  """Stages of residual blocks, the mean over the map, and a linear classifier.

  Attributes:
    widths: Channels of each stage.
    strides: Factor by which each stage makes the map smaller.
    num_blocks: Blocks of each stage.
    num_classes: Number of logits.
    initializer: See `CifarResNet`.
    dtype: Compute dtype; parameters, statistics and logits are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  widths: tuple[int, ...]
  strides: tuple[int, ...]
  num_blocks: int
  num_classes: int
  initializer: str = "xavier"
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> tuple[Float[Array, "batch classes"], StageMaps]:
    """Logits, and the maps of each stage."""
    maps, preactivations = [], []
    for i, (width, stride) in enumerate(
      zip(self.widths, self.strides, strict=True), start=1
    ):
      sums: list[Maps] = []
      for j in range(self.num_blocks):
        x = ResidualBlock(
          width=width,
          stride=1 if j else stride,
          initializer=self.initializer,
          dtype=self.dtype,
          axis_name=self.axis_name,
          name=f"stage_{i}_block_{j + 1}",
        )(x, train, mask, sums)
      maps.append(x)
      preactivations.append(sums[-1])
    options = {**_INITIALIZERS[self.initializer][1], "name": "classifier"}
    representation = pooled(x).astype(jnp.float32)
    logits = dense(representation, self.num_classes, dtype=jnp.float32, **options)
    return logits, StageMaps(maps, preactivations)


class CifarResNet(nn.Module):
  """ResNet for small images: a 3x3 stem with BatchNorm and ReLU, then three stages.

  `CifarResNet()` is ResNet-20; `cifar_resnet(110)` is ResNet-110. Activations are sown
  under the names in `taps`: the output of each stage, averaged down to at most 4x4, and
  `pooled`, the input of the classifier. As in `BenchmarkNetwork`, the network also sows
  the full maps (`maps`: f0 after the ReLU of the stem, then f1, f2, f3 of the stages)
  and the maps of the stages before their last ReLU (`preactivations`).

  The networks of RepDistiller differ only in the initializer, `"fan_out"`; `by_name`
  has them as `resnet20x1`, `resnet8x4` and so on.

  Attributes:
    num_blocks: Blocks of each stage, n of 6n + 2.
    widths: Channels of each stage; each but the first halves the map.
    stem_width: Channels of the stem.
    stem_stride: Factor by which the stem makes the map smaller.
    num_classes: Number of logits.
    initializer: "xavier" draws all kernels as Walawalkar et al. do (normal, Xavier);
      "fan_out" as RepDistiller does: convolutions normal with variance 2 / (kernel area
      * output channels), the linear layer uniform within 1 / sqrt(inputs).
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  num_blocks: int = 3
  widths: tuple[int, ...] = (16, 32, 64)
  stem_width: int = 16
  stem_stride: int = 1
  num_classes: int = 10
  initializer: str = "xavier"
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the default taps, from input to output."""
    return tap_names(len(self.widths))

  @property
  def maps(self) -> tuple[str, ...]:
    """Names of the full maps, from input to output: f0 of the stem, f1, ..."""
    return map_names(len(self.widths))

  @property
  def preactivations(self) -> tuple[str, ...]:
    """Names of the maps of the stages before their last ReLU: f1_preact, ..."""
    return preactivation_names(len(self.widths))

  @nn.compact
  def __call__(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool = False,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Float[Array, "batch classes"]:
    """Logits of a batch of images.

    Args:
      images: Normalised images.
      train: True if BatchNorm uses (and records) the statistics of the batch.
      mask: Mask of valid rows; None if all are valid.
    """
    x = self.stem(images, train, mask)
    logits, stages = self.body(self.widths)(x, train, mask)
    self.sow_taps(x, stages)
    return logits

  def stem(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool,
    mask: Bool[Array, " batch"] | None,
  ) -> Maps:
    """Output of the stem, the input of all bodies; call it within `__call__`.

    Raises:
      ValueError: If the initializer is unknown, or the images have another rank.
    """
    check_choice("initializer", self.initializer, tuple(_INITIALIZERS))
    x = prepare_images(
      images, mask, smallest=1, network=type(self).__name__, dtype=self.dtype
    )
    options = {
      "stride": self.stem_stride,
      "kernel_init": _INITIALIZERS[self.initializer][0],
      "name": "stem",
    }
    return nn.relu(convolved(self, x, self.stem_width, train, mask, **options))

  def body(
    self, widths: Sequence[int], *, name: str = "body", **options: Any
  ) -> ResNetBody:
    """Make a body with the depth of this network; call it within `__call__`."""
    defaults = {
      "strides": (1,) + (2,) * (len(widths) - 1),
      "num_classes": self.num_classes,
    }
    return ResNetBody(
      widths=tuple(widths),
      num_blocks=self.num_blocks,
      initializer=self.initializer,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=name,
      **{**defaults, **options},
    )

  def sow_taps(self, stem: Maps, stages: StageMaps) -> None:
    """Sow the taps, given the outputs of the stem and of a body."""
    maps = (stem, *stages.maps)
    found = Activations(maps, stages.preactivations, pooled(maps[-1]))
    sow_activations(self, found)


def cifar_resnet(
  depth: int, *, width: int = 16, stem_width: int | None = None, **options: Any
) -> CifarResNet:
  """Make a `CifarResNet` by its number of layers.

  Args:
    depth: Number of layers, 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
    width: Channels of the first stage; each further stage doubles them.
    stem_width: Channels of the stem; None for `width`.
    **options: Further fields of the module.

  Raises:
    ValueError: If there is no network of that depth.
  """
  if depth < 8 or depth % 6 != 2:
    raise ValueError(
      f"depth: expected 6n + 2 with n of 1 or more, such as 20 or 56, got {depth}"
    )
  return CifarResNet(
    num_blocks=depth // 6,
    widths=(width, 2 * width, 4 * width),
    stem_width=width if stem_width is None else stem_width,
    **options,
  )


def pooled(x: Maps) -> Float[Array, "batch channels"]:
  """Mean over the map."""
  return x.mean((1, 2))


def fields_of(network: nn.Module, kind: type) -> dict[str, Any]:
  """Fields that a network shares with a class, without Linen's own fields."""
  return {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(kind)
    if field.name not in ("parent", "name")
  }

"""The residual networks for small images of He et al., "Deep Residual Learning".

https://arxiv.org/abs/1512.03385, section 4.2: a narrow stem and three stages of n
blocks, 6n + 2 layers. In two modules, stem and body, so that other networks can put
several bodies on one stem or on one another's maps.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._batch_norm import BatchNorm
from flowkd_jax.models._building_blocks import prepare_images
from flowkd_jax.models._resnet import small_map

Maps = Float[Array, "batch height width channels"]


class NormalizedConvolution(nn.Module):
  """A convolution without bias, then BatchNorm.

  Attributes:
    width: channels of the result.
    kernel_size: side of the kernel; the map is padded by half of it.
    stride: factor by which the result is smaller than the input.
    dtype: compute dtype.
    axis_name: mapped axis over which BatchNorm takes statistics in training.
  """

  width: int
  kernel_size: int = 3
  stride: int = 1
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None) -> Maps:
    """Applies both; arguments as in `CifarResNet`."""
    x = nn.Conv(
      self.width,
      (self.kernel_size, self.kernel_size),
      strides=self.stride,
      padding=self.kernel_size // 2,
      use_bias=False,
      kernel_init=nn.initializers.xavier_normal(),
      dtype=self.dtype,
      name="conv",
    )(x)
    norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name="norm")
    return norm(x, train=train, mask=mask)


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut; ReLU after the first and after the sum.

  Where the shape changes, the shortcut is a 1x1 convolution with BatchNorm (option B
  of the paper). Attributes as in `NormalizedConvolution`.
  """

  width: int
  stride: int = 1
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None) -> Maps:
    """Applies the block; arguments as in `CifarResNet`."""

    def convolve(x, name, **options):
      layer = NormalizedConvolution(
        self.width, dtype=self.dtype, axis_name=self.axis_name, name=name, **options
      )
      return layer(x, train, mask)

    shortcut = x
    if self.stride != 1 or x.shape[-1] != self.width:
      shortcut = convolve(x, "shortcut", kernel_size=1, stride=self.stride)
    x = nn.relu(convolve(x, "conv_1", stride=self.stride))
    return nn.relu(convolve(x, "conv_2") + shortcut)


class ResNetBody(nn.Module):
  """Stages of residual blocks, the mean over the map, and a linear classifier.

  Attributes:
    widths: channels of each stage.
    strides: factor by which each stage makes the map smaller.
    num_blocks: blocks of each stage.
    num_classes: number of logits.
    dtype: compute dtype; parameters, statistics and logits are float32.
    axis_name: mapped axis over which BatchNorm takes statistics in training.
  """

  widths: tuple[int, ...]
  strides: tuple[int, ...]
  num_blocks: int
  num_classes: int
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> tuple[Float[Array, "batch classes"], list[Maps]]:
    """Logits, and the map after the last ReLU of each stage."""
    maps = []
    for i, (width, stride) in enumerate(
      zip(self.widths, self.strides, strict=True), start=1
    ):
      for j in range(self.num_blocks):
        x = ResidualBlock(
          width=width,
          stride=1 if j else stride,
          dtype=self.dtype,
          axis_name=self.axis_name,
          name=f"stage_{i}_block_{j + 1}",
        )(x, train, mask)
      maps.append(x)
    classifier = nn.Dense(
      self.num_classes, kernel_init=nn.initializers.xavier_normal(), name="classifier"
    )
    return classifier(pooled(x).astype(jnp.float32)), maps


class CifarResNet(nn.Module):
  """A 3x3 stem with BatchNorm and ReLU, then three stages of residual blocks.

  `CifarResNet()` is ResNet-20, `cifar_resnet(110)` ResNet-110. Weights are drawn as in
  Walawalkar et al. (normal, Xavier). Activations are sown under the names in `taps`:
  the result of each stage, averaged to 4x4 where it is larger, and `pooled`, before
  the classifier.

  Attributes:
    num_blocks: blocks of each stage, n of 6n + 2.
    widths: channels of each stage; each but the first halves the map.
    stem_width: channels of the stem.
    stem_stride: factor by which the stem makes the map smaller.
    num_classes: number of logits.
    dtype: compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: mapped axis over which BatchNorm takes statistics in training.
  """

  num_blocks: int = 3
  widths: tuple[int, ...] = (16, 32, 64)
  stem_width: int = 16
  stem_stride: int = 1
  num_classes: int = 10
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the sown activations, from input to output."""
    return (*(f"stage_{i + 1}" for i in range(len(self.widths))), "pooled")

  @nn.compact
  def __call__(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool = False,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Float[Array, "batch classes"]:
    """Logits of a batch of images.

    Args:
      images: normalised images.
      train: whether BatchNorm uses (and records) the statistics of the batch.
      mask: rows that are valid; none means all.
    """
    x = self.stem(images, train, mask)
    logits, maps = self.body(self.widths)(x, train, mask)
    self.sow_taps(maps)
    return logits

  def stem(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool,
    mask: Bool[Array, " batch"] | None,
  ) -> Maps:
    """Output of the stem, with which all bodies begin; call it within `__call__`."""
    x = prepare_images(
      images, mask, smallest=1, network=type(self).__name__, dtype=self.dtype
    )
    layer = NormalizedConvolution(
      self.stem_width,
      stride=self.stem_stride,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name="stem",
    )
    return nn.relu(layer(x, train, mask))

  def body(
    self, widths: Sequence[int], *, name: str = "body", **options: Any
  ) -> ResNetBody:
    """A body as deep as this network; to be called within `__call__`."""
    defaults = {
      "strides": (1,) + (2,) * (len(widths) - 1),
      "num_classes": self.num_classes,
    }
    return ResNetBody(
      widths=tuple(widths),
      num_blocks=self.num_blocks,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=name,
      **{**defaults, **options},
    )

  def sow_taps(self, maps: Sequence[Maps]) -> None:
    """Sows the taps of the body that gave these maps."""
    for i, x in enumerate(maps, start=1):
      self.sow("intermediates", f"stage_{i}", small_map(x))
    self.sow("intermediates", "pooled", pooled(maps[-1]))


def cifar_resnet(depth: int, *, width: int = 16, **options: Any) -> CifarResNet:
  """The network of so many layers.

  Args:
    depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
    width: channels of the stem and of the first stage; they double twice.
    **options: further fields of the module.

  Raises:
    ValueError: if there is no network of that depth.
  """
  if depth < 8 or depth % 6 != 2:
    raise ValueError(
      f"depth: expected 6n + 2 with n of 1 or more, such as 20 or 56, got {depth}"
    )
  widths = (width, 2 * width, 4 * width)
  return CifarResNet(num_blocks=depth // 6, widths=widths, stem_width=width, **options)


def pooled(x: Maps) -> Float[Array, "batch channels"]:
  """Mean over the map."""
  return x.mean((1, 2))


def fields_of(network: nn.Module, kind: type) -> dict[str, Any]:
  """Fields of a network that a kind of network has, without Linen's own."""
  return {
    field.name: getattr(network, field.name)
    for field in dataclasses.fields(kind)
    if field.name not in ("parent", "name")
  }

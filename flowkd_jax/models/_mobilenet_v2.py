"""MobileNetV2 of the CIFAR-100 benchmark, half as wide as in its paper."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._benchmark_network import Activations
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._benchmark_network import Maps
from flowkd_jax.models._benchmark_network import convolved
from flowkd_jax.models._vgg import small_classifier

# Channels at full width (a stem of 32 channels), and stride of the first block, for
# each group of blocks.
_GROUPS = ((16, 1), (24, 1), (32, 2), (64, 2), (96, 1), (160, 2), (320, 1))
_FULL_WIDTH = 32
# Groups after which a stage of the benchmark ends.
_STAGE_ENDS = (2, 3, 5, 7)


class InvertedResidual(nn.Module):
  """Inverted residual block: 1x1, depthwise 3x3 and 1x1 convolution.

  All convolutions have BatchNorm; ReLU follows the first two. The input is added if the
  shape does not change. As in RepDistiller, the first convolution exists even if it
  does not add channels, and ReLU replaces ReLU6.

  Attributes:
    width: Channels of the result.
    stride: Stride of the depthwise convolution.
    expansion: Channels inside the block, as a multiple of the input channels.
    dtype: Compute dtype.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int
  stride: int = 1
  expansion: int = 6
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None) -> Maps:
    """Result of the block, which can be negative."""
    convolve = functools.partial(convolved, self, train=train, mask=mask)
    inner = x.shape[-1] * self.expansion
    y = nn.relu(convolve(x, inner, name="conv_1", kernel_size=1))
    y = nn.relu(convolve(y, inner, name="conv_2", stride=self.stride, groups=inner))
    y = convolve(y, self.width, name="conv_3", kernel_size=1)
    return x + y if self.stride == 1 and x.shape[-1] == self.width else y


class MobileNetV2(BenchmarkNetwork):
  """MobileNetV2 for images of 32 pixels.

  Sandler et al., https://arxiv.org/abs/1801.04381, as in RepDistiller: 3x3 stem of
  stride 2, seven groups of inverted residuals (the second without stride), a 1x1
  convolution to `head_width` channels with BatchNorm and ReLU, the mean over the map
  and one linear layer. A `width` of 16 is "half".

  f0 is the output of the stem after ReLU. f1 to f4 are the outputs of the groups 2, 3,
  5 and 7; they can be negative, as no ReLU follows. f1_preact to f4_preact are the same
  maps. `pooled` is the mean over the map after the last convolution.

  Attributes:
    width: Channels of the stem, 32 at full width; all groups scale with it.
    head_width: Channels of the last convolution.
    group_sizes: Number of blocks of each group.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  num_stages = 4

  width: int = 16
  head_width: int = 1280
  group_sizes: tuple[int, int, int, int, int, int, int] = (1, 2, 3, 4, 3, 3, 1)

  def activations(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> Activations:
    """Compute all activations before the classifier."""
    if self.width < 2:
      raise ValueError(
        f"width: expected 2 or more, as MobileNetV2 has half as many channels in its "
        f"first group, got {self.width}"
      )
    convolve = functools.partial(convolved, self, train=train, mask=mask)
    x = nn.relu(convolve(x, self.width, name="stem", stride=2))
    maps = [x]
    for i, (channels, stride) in enumerate(_GROUPS, start=1):
      for j in range(self.group_sizes[i - 1]):
        x = InvertedResidual(
          width=channels * self.width // _FULL_WIDTH,
          stride=1 if j else stride,
          expansion=6 if i > 1 else 1,
          dtype=self.dtype,
          axis_name=self.axis_name,
          name=f"group_{i}_block_{j + 1}",
        )(x, train, mask)
      if i in _STAGE_ENDS:
        maps.append(x)
    x = nn.relu(convolve(x, self.head_width, name="head", kernel_size=1))
    return Activations(maps, maps[1:], x.mean((1, 2)))

  def classify(
    self, pooled: Float[Array, "batch dim"]
  ) -> Float[Array, "batch classes"]:
    """Logits of a linear layer with small normal weights."""
    return small_classifier(pooled, self.num_classes)

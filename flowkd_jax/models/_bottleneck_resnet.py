"""ResNet-50 for images of 32 pixels, as in the CIFAR-100 benchmark."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool

from flowkd_jax.models._benchmark_network import Activations
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._benchmark_network import Maps
from flowkd_jax.models._benchmark_network import convolved

# Channels of the result of a block, as a multiple of its inner width.
_EXPANSION = 4


class BottleneckBlock(nn.Module):
  """Bottleneck block: 1x1, 3x3 and 1x1 convolution with BatchNorm, and a shortcut.

  The 3x3 convolution has the stride. If the shape changes, the shortcut is a 1x1
  convolution with BatchNorm.

  Attributes:
    width: Channels within; the result has four times as many.
    stride: Factor by which the result is smaller than the input.
    dtype: Compute dtype.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int
  stride: int = 1
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None) -> Maps:
    """Result of the block before its last ReLU."""
    convolve = functools.partial(convolved, self, train=train, mask=mask)
    outputs = _EXPANSION * self.width
    shortcut = x
    if self.stride != 1 or x.shape[-1] != outputs:
      shortcut = convolve(
        x, outputs, name="shortcut", kernel_size=1, stride=self.stride
      )
    x = nn.relu(convolve(x, self.width, name="conv_1", kernel_size=1))
    x = nn.relu(convolve(x, self.width, name="conv_2", stride=self.stride))
    return convolve(x, outputs, name="conv_3", kernel_size=1) + shortcut


class BottleneckResNet(BenchmarkNetwork):
  """ResNet-50 with a stem for small images.

  He et al., "Deep Residual Learning", https://arxiv.org/abs/1512.03385, table 1, as in
  RepDistiller: 3x3 stem of stride 1 with BatchNorm and ReLU, no max pooling, four
  stages of bottlenecks, each but the first halves the map, the mean over the map and a
  linear layer. No BatchNorm starts at zero.

  ReLU follows the maps f0 to f4.

  Attributes:
    stage_sizes: Number of blocks of each of the four stages.
    width: Channels of the stem, and within the blocks of the first stage.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  num_stages = 4

  stage_sizes: tuple[int, int, int, int] = (3, 4, 6, 3)
  width: int = 64

  def activations(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> Activations:
    """Compute all activations before the classifier."""
    x = nn.relu(convolved(self, x, self.width, train, mask, name="stem"))
    maps, preactivations = [x], []
    for i, num_blocks in enumerate(self.stage_sizes):
      before = x
      for j in range(num_blocks):
        before = BottleneckBlock(
          width=self.width * 2**i,
          stride=2 if i and not j else 1,
          dtype=self.dtype,
          axis_name=self.axis_name,
          name=f"stage_{i + 1}_block_{j + 1}",
        )(x, train, mask)
        x = nn.relu(before)
      preactivations.append(before)
      maps.append(x)
    return Activations(maps, preactivations, x.mean((1, 2)))

"""ShuffleNetV2 of the CIFAR-100 benchmark, called ShuffleV2 there."""

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
from flowkd_jax.models._building_blocks import kernel_initializer
from flowkd_jax.models._shufflenet_v1 import shuffled

_STEM_WIDTH = 24


class SplitBlock(nn.Module):
  """Split block: three convolutions on the second half of the channels.

  They are 1x1, depthwise 3x3 and 1x1 convolutions with BatchNorm; ReLU follows the
  first. The first half of the channels is kept.

  Attributes:
    dtype: Compute dtype.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None) -> Maps:
    """Result of the block before its last ReLU and the shuffle."""
    convolve = _convolve_in(self, train, mask)
    kept, x = jnp.split(x, 2, axis=-1)
    width = x.shape[-1]
    x = nn.relu(convolve(x, width, name="conv_1", kernel_size=1))
    x = convolve(x, width, name="conv_2", groups=width)
    x = convolve(x, width, name="conv_3", kernel_size=1)
    return jnp.concatenate((kept, x), axis=-1)


class HalvingBlock(nn.Module):
  """Halving block: two parallel branches with depthwise 3x3 convolutions of stride 2.

  The first branch has a depthwise and a 1x1 convolution; the second has a 1x1, a
  depthwise and a 1x1 convolution. All have BatchNorm. The results are concatenated.

  Attributes:
    width: Channels of the result.
    dtype: Compute dtype.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None) -> Maps:
    """Result of the block before its last ReLU and the shuffle."""
    convolve = _convolve_in(self, train, mask)
    inputs, width = x.shape[-1], self.width // 2
    left = convolve(x, inputs, name="conv_1", stride=2, groups=inputs)
    left = convolve(left, width, name="conv_2", kernel_size=1)
    right = nn.relu(convolve(x, width, name="conv_3", kernel_size=1))
    right = convolve(right, width, name="conv_4", stride=2, groups=width)
    right = convolve(right, width, name="conv_5", kernel_size=1)
    return jnp.concatenate((left, right), axis=-1)


class ShuffleNetV2(BenchmarkNetwork):
  """ShuffleNetV2 for images of 32 pixels.

  Ma et al., https://arxiv.org/abs/1807.11164, in the form of RepDistiller. The stem is
  a 1x1 convolution (3x3 in the paper) to 24 channels with BatchNorm and ReLU, without
  pooling. The stages begin with one block of stride 2, before 3, 7 and 3 others. Then
  come a 1x1 convolution to `head_width` channels with BatchNorm and ReLU, the mean over
  the map and one linear layer.

  The maps f0 to f3 are outputs of a ReLU. The channels of f1 to f3 are shuffled after
  the ReLU; those of f1_preact to f3_preact are not shuffled. `pooled` is the mean over
  the map after the last convolution.

  Attributes:
    width: Channels of the first stage, even; they double twice.
    head_width: Channels of the last convolution.
    stage_sizes: Number of blocks of each stage, the first included.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int = 116
  head_width: int = 1024
  stage_sizes: tuple[int, int, int] = (4, 8, 4)

  def activations(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> Activations:
    """Compute all activations before the classifier."""
    if self.width % 2:
      raise ValueError(
        "width: expected an even number, as ShuffleNetV2 halves its channels, got "
        f"{self.width}"
      )
    convolve = _convolve_in(self, train, mask)
    options = {"dtype": self.dtype, "axis_name": self.axis_name}
    x = nn.relu(convolve(x, _STEM_WIDTH, name="stem", kernel_size=1))
    maps, preactivations = [x], []
    for i, num_blocks in enumerate(self.stage_sizes, start=1):
      width, name = self.width * 2 ** (i - 1), f"stage_{i}_block"
      before = HalvingBlock(width, **options, name=f"{name}_1")(x, train, mask)
      for j in range(2, num_blocks + 1):
        x = shuffled(nn.relu(before), 2)
        before = SplitBlock(**options, name=f"{name}_{j}")(x, train, mask)
      x = shuffled(nn.relu(before), 2)
      preactivations.append(before)
      maps.append(x)
    x = nn.relu(convolve(x, self.head_width, name="head", kernel_size=1))
    return Activations(maps, preactivations, x.mean((1, 2)))


def _convolve_in(module, train, mask):
  return functools.partial(
    convolved, module, train=train, mask=mask, kernel_init=kernel_initializer
  )

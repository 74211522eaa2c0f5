"""ShuffleNet of the CIFAR-100 benchmark, called ShuffleV1 there."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool

from flowkd_jax.models._benchmark_network import Activations
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._benchmark_network import Maps
from flowkd_jax.models._benchmark_network import convolved
from flowkd_jax.models._building_blocks import kernel_initializer

_GROUPS = 3
_STEM_WIDTH = 24


class ShuffleBlock(nn.Module):
  """Shuffle block: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, and a shortcut.

  All convolutions have BatchNorm; ReLU follows the first two. Without a stride, the
  input is added. With a stride, the shortcut is a 3x3 mean (which counts the zeros
  around the map), concatenated after the new channels.

  Attributes:
    width: Channels of the result, including those of the shortcut.
    stride: Factor by which the result is smaller than the input.
    groups: Groups of the first convolution; the last has three.
    dtype: Compute dtype.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int
  stride: int = 1
  groups: int = _GROUPS
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None) -> Maps:
    """Result of the block before its last ReLU."""
    convolve = functools.partial(
      convolved, self, train=train, mask=mask, kernel_init=kernel_initializer
    )
    outputs = self.width if self.stride == 1 else self.width - x.shape[-1]
    inner = outputs // 4
    y = convolve(x, inner, name="conv_1", kernel_size=1, groups=self.groups)
    y = shuffled(nn.relu(y), self.groups)
    y = nn.relu(convolve(y, inner, name="conv_2", stride=self.stride, groups=inner))
    y = convolve(y, outputs, name="conv_3", kernel_size=1, groups=_GROUPS)
    if self.stride == 1:
      return x + y
    return jnp.concatenate((y, _halved(x)), axis=-1)


class ShuffleNetV1(BenchmarkNetwork):
  """ShuffleNet with three groups, for images of 32 pixels.

  Zhang et al., https://arxiv.org/abs/1707.01083, as in RepDistiller: a 1x1 stem with 24
  channels, BatchNorm and ReLU, no pooling; stages of 4, 8 and 4 blocks, each beginning
  with a stride of 2; the mean over the map and one linear layer. The inner width of a
  block is a quarter of its new channels (without those of the shortcut).

  ReLU follows the maps f0 to f3.

  Attributes:
    width: Channels of the first stage, a multiple of 12 above 24; they double twice.
    stage_sizes: Number of blocks of each stage.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int = 240
  stage_sizes: tuple[int, int, int] = (4, 8, 4)

  def activations(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> Activations:
    """Compute all activations before the classifier."""
    if self.width % (4 * _GROUPS) or self.width <= _STEM_WIDTH:
      raise ValueError(
        f"width: expected a multiple of {4 * _GROUPS} above {_STEM_WIDTH}, as "
        f"ShuffleNetV1 splits its channels into {_GROUPS} groups, got {self.width}"
      )
    options = {"kernel_size": 1, "kernel_init": kernel_initializer, "name": "stem"}
    x = nn.relu(convolved(self, x, _STEM_WIDTH, train, mask, **options))
    maps, preactivations = [x], []
    for i, num_blocks in enumerate(self.stage_sizes, start=1):
      before = x
      for j in range(1, num_blocks + 1):
        before = ShuffleBlock(
          width=self.width * 2 ** (i - 1),
          stride=2 if j == 1 else 1,
          groups=1 if i == j == 1 else _GROUPS,
          dtype=self.dtype,
          axis_name=self.axis_name,
          name=f"stage_{i}_block_{j}",
        )(x, train, mask)
        x = nn.relu(before)
      preactivations.append(before)
      maps.append(x)
    return Activations(maps, preactivations, x.mean((1, 2)))


def _halved(x: Maps) -> Maps:
  """Mean over 3x3 with stride 2; zeros around the map count, as in PyTorch."""
  around = ((0, 0), (1, 1), (1, 1), (0, 0))
  # With a traced zero, `reduce_window` would be a generic reduction without a gradient.
  zero = np.zeros((), x.dtype)
  return lax.reduce_window(x, zero, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), around) / 9


def shuffled(x: Maps, groups: int) -> Maps:
  """Shuffle channels: the first channel of each group, then the second, ..."""
  *shape, channels = x.shape
  split = x.reshape(*shape, groups, channels // groups)
  return jnp.swapaxes(split, -1, -2).reshape(x.shape)

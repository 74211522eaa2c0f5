"""Wide residual networks of the CIFAR-100 benchmark: WRN-16-2, WRN-40-2, ..."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._batch_norm import BatchNorm
from flowkd_jax.models._benchmark_network import Activations
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._benchmark_network import Maps
from flowkd_jax.models._building_blocks import convolution
from flowkd_jax.models._building_blocks import dense
from flowkd_jax.models._building_blocks import fan_out_initializer


class WideBlock(nn.Module):
  """Pre-activation block of a wide residual network.

  It is a `PreActBlock` with kernels initialised by `fan_out_initializer`. If the
  channels change, the shortcut is a 1x1 convolution of the activated input, otherwise
  it is the input.

  Attributes:
    width: Channels of the result.
    stride: Factor by which the result is smaller than the input.
    dtype: Compute dtype.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int
  stride: int = 1
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> tuple[Maps, Maps]:
    """Result of the block, and its input after the first BatchNorm."""

    def normalize(x, name):
      norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=name)
      return norm(x, train=train, mask=mask)

    def convolve(x, name, size=3, stride=1):
      return _convolve(self, x, self.width, name, size, stride)

    normalized = normalize(x, "norm_1")
    activated = nn.relu(normalized)
    shortcut = x
    if self.stride != 1 or x.shape[-1] != self.width:
      shortcut = convolve(activated, "shortcut", size=1, stride=self.stride)
    x = convolve(activated, "conv_1", stride=self.stride)
    x = convolve(nn.relu(normalize(x, "norm_2")), "conv_2")
    return x + shortcut, normalized


class WideResNet(BenchmarkNetwork):
  """Wide residual network with blocks that normalise first, of depth 6n + 4.

  Zagoruyko & Komodakis, "Wide Residual Networks", https://arxiv.org/abs/1605.07146, as
  in RepDistiller, without dropout: 3x3 stem without BatchNorm, three stages of n
  blocks, BatchNorm and ReLU, the mean over the map and a linear layer, whose bias
  starts at zero.

  No ReLU follows the maps f0 to f3, so they can be negative. f1_preact to f3_preact are
  f1 to f3 after the following BatchNorm, which is the first one of the next stage, or
  the last one of the network. (mdistiller, and RepDistiller if these maps are
  requested, apply that BatchNorm a second time, so that its running averages move twice
  in each training step. Here they move once.)

  Attributes:
    num_blocks: Blocks of each stage, n.
    widen_factor: Channels of the first stage, as a multiple of `width`; they double
      from stage to stage.
    width: Channels of the stem.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  num_blocks: int = 2
  widen_factor: int = 2
  width: int = 16

  def activations(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> Activations:
    """Compute all activations before the classifier."""
    options = {"dtype": self.dtype, "axis_name": self.axis_name}
    x = _convolve(self, x, self.width, "stem")
    maps, normalized = [x], []
    for i in range(1, self.num_stages + 1):
      for j in range(1, self.num_blocks + 1):
        block = WideBlock(
          width=self.width * self.widen_factor * 2 ** (i - 1),
          stride=2 if i > 1 and j == 1 else 1,
          name=f"stage_{i}_block_{j}",
          **options,
        )
        x, before = block(x, train, mask)
        if i > 1 and j == 1:
          normalized.append(before)
      maps.append(x)
    normalized.append(BatchNorm(**options, name="norm")(x, train=train, mask=mask))
    return Activations(maps, normalized, nn.relu(normalized[-1]).mean((1, 2)))

  def classify(
    self, pooled: Float[Array, "batch dim"]
  ) -> Float[Array, "batch classes"]:
    """Logits of a linear layer whose bias starts at zero."""
    return dense(
      pooled,
      self.num_classes,
      name="classifier",
      dtype=jnp.float32,
      bias_init=nn.initializers.zeros,
    )


def wide_resnet(depth: int, widen_factor: int, **options: Any) -> WideResNet:
  """Make a wide residual network by depth and widening factor.

  Args:
    depth: Number of layers, 6n + 4: 16, 22, 28, 40, ...
    widen_factor: See `WideResNet`.
    **options: Further fields of the module.

  Raises:
    ValueError: If there is no network of that depth.
  """
  if depth < 10 or depth % 6 != 4:
    raise ValueError(
      f"depth: expected 6n + 4 with n of 1 or more, such as 16 or 40, got {depth}"
    )
  return WideResNet(num_blocks=depth // 6, widen_factor=widen_factor, **options)


def _convolve(
  module: Any, x: Maps, width: int, name: str, size: int = 3, stride: int = 1
) -> Maps:
  return convolution(
    x,
    width,
    name=name,
    kernel_size=size,
    strides=stride,
    padding=size // 2,
    use_bias=False,
    kernel_init=fan_out_initializer,
    dtype=module.dtype,
  )

"""Convolution followed by BatchNorm, the layer of most residual networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._batch_norm import BatchNorm
from flowkd_jax.models._building_blocks import fan_out_initializer


class NormalizedConvolution(nn.Module):
  """Convolution, then BatchNorm.

  Attributes:
    width: channels of the result.
    kernel_size: side of the kernel; the map is padded by half of it.
    stride: factor by which the result is smaller than the input.
    groups: number of groups of channels that are convolved apart.
    use_bias: whether the convolution adds a bias, which starts at zero.
    kernel_init: initializer of the kernel.
    dtype: compute dtype.
    axis_name: mapped axis over which BatchNorm takes statistics in training.
  """

  width: int
  kernel_size: int = 3
  stride: int = 1
  groups: int = 1
  use_bias: bool = False
  kernel_init: jax.nn.initializers.Initializer = fan_out_initializer
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    train: bool,
    mask: Bool[Array, " batch"] | None,
  ) -> Float[Array, "batch new_height new_width new_channels"]:
    """Applies both layers.

    Args:
      x: maps.
      train: whether BatchNorm uses (and records) the statistics of the batch.
      mask: rows that are valid; none means all.
    """
    x = nn.Conv(
      self.width,
      (self.kernel_size, self.kernel_size),
      strides=self.stride,
      padding=self.kernel_size // 2,
      feature_group_count=self.groups,
      use_bias=self.use_bias,
      kernel_init=self.kernel_init,
      dtype=self.dtype,
      name="conv",
    )(x)
    norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name="norm")
    return norm(x, train=train, mask=mask)

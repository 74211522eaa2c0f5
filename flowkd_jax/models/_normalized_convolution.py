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
  """Convolution followed by BatchNorm.

  Attributes:
    width: Channels of the result.
    kernel_size: Side of the kernel; the map is padded by half of it.
    stride: Factor by which the result is smaller than the input.
    groups: Number of groups of channels that are convolved separately.
    use_bias: True if the convolution adds a bias, which starts at zero.
    kernel_init: Initializer of the kernel.
    dtype: Compute dtype.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
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
    """Apply both layers.

    Args:
      x: Maps.
      train: True if BatchNorm uses (and records) the statistics of the batch.
      mask: Mask of valid rows; None if all are valid.
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

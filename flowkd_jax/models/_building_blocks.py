"""Layers with PyTorch's initialisation, and the check of the input images."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax._numerics.checks import check_floating
from flowkd_jax.models._batch_norm import zero_masked

# Uniform in +-1 / sqrt(fan_in): PyTorch's default (kaiming_uniform with a = sqrt(5)),
# which the networks of the paper use.
kernel_initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# Normal with variance 2 / (kernel area * output channels), independent of the number of
# groups: RepDistiller's initialisation (kaiming_normal with fan_out).
fan_out_initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def bias_initializer(fan_in: int) -> jax.nn.initializers.Initializer:
  """Initializer of biases, uniform in +-1 / sqrt(`fan_in`), as in PyTorch."""
  limit = 1 / math.sqrt(fan_in)

  def initialize(key, shape, dtype=jnp.float32, out_sharding=None):
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return initialize


def convolution(
  x: Float[Array, "batch height width channels"],
  features: int,
  *,
  name: str,
  kernel_size: int = 3,
  **options: Any,
) -> Float[Array, "batch new_height new_width features"]:
  """Square convolution, initialised as in PyTorch; `options` can override this."""
  fan_in = kernel_size * kernel_size * x.shape[-1]
  defaults = {
    "kernel_init": kernel_initializer,
    "bias_init": bias_initializer(fan_in),
  }
  options = {**defaults, **options}
  return nn.Conv(features, (kernel_size, kernel_size), name=name, **options)(x)


def dense(
  x: Float[Array, "batch dim"],
  features: int,
  *,
  name: str,
  dtype: DTypeLike,
  **options: Any,
) -> Float[Array, "batch features"]:
  """Dense layer, initialised as in PyTorch; `options` can override this."""
  defaults = {
    "kernel_init": kernel_initializer,
    "bias_init": bias_initializer(x.shape[-1]),
  }
  layer = nn.Dense(features, dtype=dtype, name=name, **{**defaults, **options})
  return layer(x)


def prepare_images(
  images: Float[Array, "batch height width channels"],
  mask: Bool[Array, " batch"] | None,
  *,
  smallest: int,
  network: str,
  dtype: DTypeLike,
) -> Float[Array, "batch height width channels"]:
  """Check the input of a network and cast it to the compute dtype.

  Masked images become zeros, so that even NaN in them cannot reach a gradient.

  Raises:
    ValueError: If `images` does not have rank 4, or is smaller than `smallest`.
    TypeError: If `images` is not floating point.
  """
  check_floating("images", images)
  if images.ndim != 4 or 0 in images.shape:
    raise ValueError(
      "images: expected a non-empty array of shape [batch, height, width, "
      f"channels], got shape {images.shape}"
    )
  if min(images.shape[1:3]) < smallest:
    raise ValueError(
      f"images: {network} needs at least {smallest} x {smallest} pixels, got "
      f"{images.shape[1]} x {images.shape[2]}; enlarge the images or take "
      "fewer stages"
    )
  return zero_masked(images.astype(dtype), mask)

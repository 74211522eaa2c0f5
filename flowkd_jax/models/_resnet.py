"""Pre-activation residual network, the teacher of the paper."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax import pooling
from flowkd_jax.models._batch_norm import BatchNorm
from flowkd_jax.models._building_blocks import convolution
from flowkd_jax.models._building_blocks import dense
from flowkd_jax.models._building_blocks import prepare_images

# Maximum side of the maps that are taps, as in the paper.
TAP_SIZE = 4


class PreActBlock(nn.Module):
  """Pre-activation block: BatchNorm and ReLU before each of two convolutions.

  If the shape changes, the shortcut is a 1x1 convolution of the activated input (He et
  al., "Identity Mappings in Deep Residual Networks", 2016).

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
    self,
    x: Float[Array, "batch height width channels"],
    train: bool,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Float[Array, "batch new_height new_width new_channels"]:
    """Apply the block; arguments are those of `PreActResNet`."""
    shortcut = x
    x = self._activate(x, train, mask, name="norm_1")
    if self.stride != 1 or x.shape[-1] != self.width:
      shortcut = self._convolve(x, name="shortcut", kernel_size=1, stride=self.stride)
    x = self._convolve(x, name="conv_1", stride=self.stride)
    x = self._activate(x, train, mask, name="norm_2")
    return self._convolve(x, name="conv_2") + shortcut

  def _activate(self, x, train, mask, *, name):
    norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=name)
    return nn.relu(norm(x, train=train, mask=mask))

  def _convolve(self, x, *, name, kernel_size=3, stride=1):
    return convolution(
      x,
      self.width,
      name=name,
      kernel_size=kernel_size,
      strides=stride,
      padding=kernel_size // 2,
      use_bias=False,
      dtype=self.dtype,
    )


class PreActResNet(nn.Module):
  """Residual network of pre-activation blocks, for small images.

  It has a 3x3 stem of stride 1 with BatchNorm and ReLU, stages of blocks (each stage
  but the first halves the map and doubles the channels), the mean over the map and a
  dense layer. As in the authors' network, neither BatchNorm nor ReLU follows the last
  block.

  Activations are sown under the names in `taps`: the output of each stage, averaged
  down to at most 4x4, and `pooled`, the input of the classifier.

  Attributes:
    stage_sizes: Number of blocks of each stage.
    width: Channels of the first stage.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  num_classes: int = 10
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the sown activations, from input to output."""
    stages = (f"stage_{i + 1}" for i in range(len(self.stage_sizes)))
    return (*stages, "pooled")

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
    options = {"dtype": self.dtype, "axis_name": self.axis_name}
    x = prepare_images(
      images, mask, smallest=1, network="PreActResNet", dtype=self.dtype
    )
    x = convolution(
      x, self.width, name="stem", padding=1, use_bias=False, dtype=self.dtype
    )
    x = BatchNorm(**options, name="stem_norm")(x, train=train, mask=mask)
    x = nn.relu(x)
    for i, num_blocks in enumerate(self.stage_sizes):
      for j in range(num_blocks):
        x = PreActBlock(
          width=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          name=f"stage_{i + 1}_block_{j + 1}",
          **options,
        )(x, train, mask)
      self.sow("intermediates", f"stage_{i + 1}", small_map(x))
    x = x.mean((1, 2))
    self.sow("intermediates", "pooled", x)
    return dense(
      x.astype(jnp.float32),
      self.num_classes,
      name="classifier",
      dtype=jnp.float32,
    )


def resnet18(
  *,
  num_classes: int = 10,
  dtype: DTypeLike = jnp.float32,
  axis_name: str | None = None,
) -> PreActResNet:
  """Teacher of the paper, with 11,171,274 parameters for ten classes."""
  return PreActResNet(num_classes=num_classes, dtype=dtype, axis_name=axis_name)


def small_map(
  x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch new_height new_width channels"]:
  """Average a map down to at most `TAP_SIZE` in height and width."""
  return pooling.average_pool(x, *(min(side, TAP_SIZE) for side in x.shape[1:3]))

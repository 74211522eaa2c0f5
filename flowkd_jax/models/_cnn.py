"""Small convolutional network of the paper: student and auxiliary teacher."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax._numerics.checks import check_choice
from flowkd_jax.models._batch_norm import BatchNorm
from flowkd_jax.models._building_blocks import dense
from flowkd_jax.models._building_blocks import prepare_images
from flowkd_jax.models._windows import WindowConvolution
from flowkd_jax.models._windows import inside_map
from flowkd_jax.models._windows import window_maximum


class CNN(nn.Module):
  """Convolutional network: blocks with pooling, then two dense layers.

  Each block has a convolution, BatchNorm, ReLU and max pooling. `CNN()` is the paper's
  CNN1 (15,050 parameters for CIFAR-10); `CNN(width=16)` is the auxiliary teacher CNN1-A
  (57,994 parameters). For the 8x8 digits use `CNN(num_blocks=2, padding="SAME")`.
  Activations are sown under the names in `taps`: the pooled map of each block, and the
  input of the classifier.

  Attributes:
    width: Channels of the first block; they double from block to block. The
      representation has 8 * width entries.
    num_blocks: Number of blocks.
    num_classes: Number of logits.
    padding: Padding of the convolutions, "VALID" (as in the paper) or "SAME".
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  width: int = 8
  num_blocks: int = 3
  num_classes: int = 10
  padding: str = "VALID"
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the sown activations, from input to output."""
    return (*(f"block_{i + 1}" for i in range(self.num_blocks)), "dense")

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

    Raises:
      ValueError: If the images are too small for the blocks.
    """
    x = prepare_images(
      images,
      mask,
      smallest=smallest_image(self.num_blocks, self.padding),
      network=f"CNN(num_blocks={self.num_blocks}, padding={self.padding!r})",
      dtype=self.dtype,
    )
    for i in range(self.num_blocks):
      x = self._block(x, i, train, mask)
      self.sow("intermediates", f"block_{i + 1}", x)
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(dense(x, 8 * self.width, name="hidden", dtype=self.dtype))
    self.sow("intermediates", "dense", x)
    return dense(
      x.astype(jnp.float32),
      self.num_classes,
      name="classifier",
      dtype=jnp.float32,
    )

  def _block(self, x, i, train, mask):
    if self.padding == "SAME":
      x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1] - 2, x.shape[2] - 2
    x = WindowConvolution(self.width * 2**i, dtype=self.dtype, name=f"conv_{i + 1}")(x)
    inside = inside_map(height, width)
    if not inside.all():
      rows = jnp.ones(x.shape[0], bool) if mask is None else mask.astype(bool)
      mask = rows.reshape(-1, 1, 1, 1) & jnp.asarray(inside)[None]
    norm = BatchNorm(dtype=self.dtype, axis_name=self.axis_name, name=f"norm_{i + 1}")
    x = norm(x, train=train, mask=mask)
    # ReLU and maximum commute; in this order ReLU reads only a quarter of the map.
    return nn.relu(window_maximum(x, height, width))


def smallest_image(num_blocks: int, padding: str, size: int = 1) -> int:
  """Smallest image side for which `num_blocks` blocks leave a side of `size`."""
  check_choice("padding", padding, ("VALID", "SAME"))
  lost = 2 if padding == "VALID" else 0
  for _ in range(num_blocks):
    size = 2 * size + lost
  return size

"""VGG networks of the CIFAR-100 benchmark: vgg8, vgg13, ..."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._benchmark_network import Activations
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._benchmark_network import Maps
from flowkd_jax.models._benchmark_network import convolved
from flowkd_jax.models._building_blocks import dense


class VGG(BenchmarkNetwork):
  """VGG network: five blocks of 3x3 convolutions with bias, BatchNorm and ReLU.

  Simonyan & Zisserman, https://arxiv.org/abs/1409.1556, as in RepDistiller: 2x2 max
  pooling after each of the first three blocks (and the fourth, if the images have a
  height of 64 pixels), the mean over the last map, one linear layer, no dropout. Images
  need at least 8 pixels in height and width.

  f0 to f4 are the outputs of the five blocks, after the last ReLU and before pooling.

  Attributes:
    num_convolutions: Convolutions of each of the five blocks.
    width: Channels of the first block; they double from block to block, and the last
      two have as many.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters, statistics and logits
      are float32.
    axis_name: Mapped axis over which BatchNorm computes statistics in training.
  """

  num_stages = 4
  smallest_image = 8

  num_convolutions: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)
  width: int = 64

  def activations(
    self, x: Maps, train: bool, mask: Bool[Array, " batch"] | None
  ) -> Activations:
    """Compute all activations before the classifier."""
    num_pools = 4 if x.shape[1] == 64 else 3
    maps, preactivations = [], []
    for i, num_convolutions in enumerate(self.num_convolutions):
      before = x
      for j in range(num_convolutions):
        name = f"block_{i}_conv_{j + 1}"
        width = self.width * 2 ** min(i, 3)
        before = convolved(self, x, width, train, mask, name=name, use_bias=True)
        x = nn.relu(before)
      preactivations.append(before)
      maps.append(x)
      if i < num_pools:
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
    return Activations(maps, preactivations[1:], x.mean((1, 2)))

  def classify(
    self, pooled: Float[Array, "batch dim"]
  ) -> Float[Array, "batch classes"]:
    """Logits of a linear layer with small normal weights."""
    return small_classifier(pooled, self.num_classes)


def small_classifier(
  pooled: Float[Array, "batch dim"], num_classes: int
) -> Float[Array, "batch classes"]:
  """Logits of a linear layer, initialised with N(0, 0.01^2) and zero bias."""
  return dense(
    pooled,
    num_classes,
    name="classifier",
    dtype=jnp.float32,
    kernel_init=nn.initializers.normal(0.01),
    bias_init=nn.initializers.zeros,
  )

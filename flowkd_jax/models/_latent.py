"""Networks of federated distillation: the clients' network and the generator."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import label_rule
from flowkd_jax.models._building_blocks import bias_initializer
from flowkd_jax.models._building_blocks import dense
from flowkd_jax.models._building_blocks import kernel_initializer
from flowkd_jax.models._building_blocks import prepare_images


class LatentCNN(nn.Module):
  """Network of a client: two convolutions, a linear latent and a linear classifier.

  It is the client's network of FedGen (Zhu, Hong, Zhou, ICML 2021) without batch
  normalisation: the statistics of a client with few labels do not fit other clients,
  and the published code neither averages nor sends them. No other normalisation
  replaces it, as two layers do not need one. The convolutions have stride 2.

  Activations are sown under the names in `taps`.

  Attributes:
    width: Channels of the first convolution, 6 in the paper's network. The second
      convolution has 8 / 3 as many.
    latent: Width of the latent, which has no activation function.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters and logits are float32.
    axis_name: No effect; present because all networks have this field.
  """

  width: int = 6
  latent: int = 32
  num_classes: int = 10
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  taps = ("conv_1", "conv_2", "latent")

  def setup(self):
    self.encoder = _Encoder(self.width, self.latent, self.dtype)
    self.classifier = nn.Dense(
      self.num_classes,
      kernel_init=kernel_initializer,
      bias_init=bias_initializer(self.latent),
    )

  def __call__(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool = False,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Float[Array, "batch classes"]:
    """Logits of a batch of images.

    Args:
      images: Normalised images.
      train: No effect.
      mask: Mask of valid rows; None if all are valid.

    Raises:
      ValueError: If the images are not of rank 4.
    """
    del train
    activations = self.encoder(images, mask)
    for name, activation in zip(self.taps, activations, strict=True):
      self.sow("intermediates", name, activation)
    return self.classify(activations[-1])

  def classify(
    self, latents: Float[Array, "batch latent"]
  ) -> Float[Array, "batch classes"]:
    """Logits of latents: `model.apply(variables, latents, method="classify")`.

    Only the parameters of "classifier" are needed.
    """
    return self.classifier(latents.astype(jnp.float32))


class _Encoder(nn.Module):
  """Encoder from images to the activations of `LatentCNN`."""

  width: int
  latent: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, images, mask):
    x = prepare_images(images, mask, smallest=1, network="LatentCNN", dtype=self.dtype)
    activations = []
    for i, features in enumerate((self.width, 8 * self.width // 3)):
      layer = StridedConvolution(features, dtype=self.dtype, name=f"conv_{i + 1}")
      x = nn.relu(layer(x))
      activations.append(x)
    x = x.reshape(x.shape[0], -1)
    return [*activations, dense(x, self.latent, name="latent", dtype=self.dtype)]


class StridedConvolution(nn.Module):
  """Convolution with the variables and values of a strided 3x3 `nn.Conv`.

  It equals `nn.Conv(features, (3, 3), strides=2, padding=1)`, but is computed as one
  matrix product of patches and kernel. The reason is `vmap` over clients with different
  kernels: it turns the product into a batched matrix product, but a convolution into a
  grouped convolution, which takes three times as long on two CPU cores.

  Attributes:
    features: Channels of the result.
    dtype: Compute dtype; the parameters are float32.
  """

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"]
  ) -> Float[Array, "batch half_height half_width features"]:
    """Apply the convolution; height and width are halved, rounded up."""
    channels = x.shape[-1]
    shape = (3, 3, channels, self.features)
    kernel = self.param("kernel", kernel_initializer, shape, jnp.float32)
    bias = self.param("bias", bias_initializer(9 * channels), shape[-1:], jnp.float32)
    patches = _strided_patches(x.astype(self.dtype))
    product = jnp.matmul(
      patches.reshape(-1, 9 * channels),
      kernel.reshape(9 * channels, self.features).astype(self.dtype),
    )
    product = product.reshape(*patches.shape[:3], self.features)
    return product + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def _strided_patches(x):
  """3x3 patches around every second pixel, `[batch, rows, columns, 9*channels]`."""
  height, width = x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  pieces = [
    x[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)
  ]
  return jnp.concatenate(pieces, -1)


class LatentGenerator(nn.Module):
  """Generator of latents from noise and labels, with one hidden layer and ReLU.

  It is the generator of FedGen without the batch normalisation of its hidden layer.

  Attributes:
    latent: Width of the latent.
    num_classes: Number of labels.
    hidden: Width of the hidden layer.
  """

  latent: int = 32
  num_classes: int = 10
  hidden: int = 256

  @nn.compact
  def __call__(
    self, noise: Float[Array, "batch noise"], labels: Int[Array, " batch"]
  ) -> Float[Array, "batch latent"]:
    """Generate latents for labels; noise makes latents of the same label differ.

    An invalid label gives NaN, or raises ValueError if the labels are a NumPy array. A
    negative label gives a latent without a class.
    """
    read = label_rule.read_labels(labels, self.num_classes, shape=noise.shape[:1])
    one_hot = read.one_hot(self.num_classes, noise.dtype)
    x = jnp.concatenate([noise, one_hot], 1)
    x = nn.relu(dense(x, self.hidden, name="hidden", dtype=jnp.float32))
    return dense(x, self.latent, name="latent", dtype=jnp.float32)

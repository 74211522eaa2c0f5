"""The networks of federated distillation: a client's, and the generator of latents."""

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
  """Two convolutions of stride 2, a linear latent, and a linear classifier of it.

  The client's network of FedGen (Zhu, Hong, Zhou, ICML 2021), without its batch
  normalisation: statistics of clients whose labels differ describe none of the
  others, and the published code neither averages nor sends them, so that its global
  network has none. Nothing is normalised instead: two layers do not need it.

  Activations are sown under the names in `taps`.

  Attributes:
    width: channels of the first convolution, 6 in the paper's network; the second has
      8 / 3 as many.
    latent: entries of the latent, which has no activation.
    num_classes: number of logits.
    dtype: compute dtype and that of the taps; parameters and logits are float32.
    axis_name: of no effect, as nothing is normalised; all networks have it.
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
      images: normalised images.
      train: of no effect.
      mask: rows that are valid; none means all.

    Raises:
      ValueError: if the images are not of rank 4.
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

    Needs the parameters of "classifier" only.
    """
    return self.classifier(latents.astype(jnp.float32))


class _Encoder(nn.Module):
  """From images to the activations of `LatentCNN`."""

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
  """`nn.Conv(features, (3, 3), strides=2, padding=1)`, in variables and values.

  As one product of patches and kernel: `vmap` over clients, each with a kernel of its
  own, makes a product of batches of matrices of it, and of a convolution a grouped
  one, which on two CPU cores takes three times as long.

  Attributes:
    features: channels of the result.
    dtype: compute dtype; the parameters are float32.
  """

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"]
  ) -> Float[Array, "batch half_height half_width features"]:
    """Convolves; sizes are halved, rounded up."""
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
  """The 3x3 patches around every second pixel, `[batch, rows, columns, 9*channels]`."""
  height, width = x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  pieces = [
    x[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)
  ]
  return jnp.concatenate(pieces, -1)


class LatentGenerator(nn.Module):
  """Latents of labels: noise and label, a hidden layer with ReLU, a linear one.

  The generator of FedGen, without the batch normalisation of its hidden layer.

  Attributes:
    latent: entries of a latent.
    num_classes: number of labels.
    hidden: width of the hidden layer.
  """

  latent: int = 32
  num_classes: int = 10
  hidden: int = 256

  @nn.compact
  def __call__(
    self, noise: Float[Array, "batch noise"], labels: Int[Array, " batch"]
  ) -> Float[Array, "batch latent"]:
    """Latents of the labels; the noise tells those of one label apart.

    A label that is no class gives NaN, or a ValueError in a NumPy array; a negative
    label gives a latent of no class.
    """
    read = label_rule.read_labels(labels, self.num_classes, shape=noise.shape[:1])
    one_hot = read.one_hot(self.num_classes, noise.dtype)
    x = jnp.concatenate([noise, one_hot], 1)
    x = nn.relu(dense(x, self.hidden, name="hidden", dtype=jnp.float32))
    return dense(x, self.latent, name="latent", dtype=jnp.float32)

"""Small vision transformer, a teacher of another architecture than its students."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._building_blocks import prepare_images


class TransformerBlock(nn.Module):
  """Transformer block: attention and two dense layers, with LayerNorm before each.

  Attributes:
    num_heads: Number of attention heads.
    dtype: Compute dtype.
  """

  num_heads: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "batch tokens dim"]
  ) -> Float[Array, "batch tokens dim"]:
    """Apply the block."""
    width = tokens.shape[-1]
    x = nn.LayerNorm(dtype=self.dtype, name="norm_1")(tokens)
    attention = nn.MultiHeadDotProductAttention(
      self.num_heads, dtype=self.dtype, name="attention"
    )
    tokens = tokens + attention(x)
    x = nn.LayerNorm(dtype=self.dtype, name="norm_2")(tokens)
    x = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, name="expand")(x))
    return tokens + nn.Dense(width, dtype=self.dtype, name="contract")(x)


class VisionTransformer(nn.Module):
  """Vision transformer with a class token (Dosovitskiy et al., ICLR 2021).

  "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929. It has square
  patches, learnt positions, pre-norm blocks and a class token, but no dropout. Images
  may have any size, but the variables of a model fit only one size.

  The taps are the outputs of the blocks, `[batch, 1 + patches, width]` with the class
  token first, and `class_token`, the normalised class token before the classifier.

  Attributes:
    width: Width of a token.
    depth: Number of blocks.
    num_heads: Number of attention heads; it must divide the width.
    patch_size: Side of a patch, in pixels.
    num_classes: Number of logits.
    dtype: Compute dtype and that of the taps; parameters and logits are float32.
    axis_name: No effect; present because all networks have this field.
  """

  width: int = 128
  depth: int = 6
  num_heads: int = 4
  patch_size: int = 4
  num_classes: int = 10
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the default taps, from input to output."""
    return (*(f"block_{i + 1}" for i in range(self.depth)), "class_token")

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
      train: No effect.
      mask: Mask of valid rows; None if all are valid.

    Raises:
      ValueError: If the patch size does not divide the images, or the number of heads
        does not divide the width.
    """
    del train
    x = prepare_images(
      images,
      mask,
      smallest=self.patch_size,
      network="VisionTransformer",
      dtype=self.dtype,
    )
    self._check(x.shape)
    x = self._with_class_token(self._patches(x))
    for i in range(self.depth):
      x = TransformerBlock(self.num_heads, self.dtype, name=f"block_{i + 1}")(x)
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(x[:, 0])
    self.sow("intermediates", "class_token", x)
    x = x.astype(jnp.float32)
    return nn.Dense(self.num_classes, dtype=jnp.float32, name="classifier")(x)

  def _check(self, shape):
    if shape[1] % self.patch_size or shape[2] % self.patch_size:
      raise ValueError(
        f"images: expected height and width to be multiples of {self.patch_size}, the "
        f"side of a patch, got {shape[1]} x {shape[2]}; resize them or change "
        "patch_size"
      )
    if self.width % self.num_heads:
      raise ValueError(
        f"width: expected a multiple of {self.num_heads}, the number of heads, got "
        f"{self.width}"
      )

  def _patches(self, x):
    side = (self.patch_size, self.patch_size)
    x = nn.Conv(self.width, side, side, "VALID", dtype=self.dtype, name="patches")(x)
    return x.reshape(x.shape[0], -1, self.width)

  def _with_class_token(self, x):
    small = nn.initializers.normal(0.02)
    token = self.param("class_token", small, (1, 1, self.width))
    positions = self.param("positions", small, (1, 1 + x.shape[1], self.width))
    tokens = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.width))
    return jnp.concatenate([tokens, x], 1) + positions.astype(self.dtype)

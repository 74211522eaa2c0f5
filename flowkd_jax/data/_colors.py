"""Random colours of an image, on the device: jitter, and grey images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision


def jitter_colors(
  image: Float[Array, "height width 3"], key: Key[Array, ""], strength: float
) -> Float[Array, "height width 3"]:
  """Changes brightness, contrast, saturation and hue of an image, in this order.

  `ColorJitter(s, s, s, s)` of torchvision draws the order anew for every image and
  rounds after each change; the factors are drawn as there.

  Args:
    image: Red, green and blue in 0..255.
    key: Random key.
    strength: S in 0..0.5. The first three factors are uniform in 1 - s..1 + s, and the
      hue turns by a share of the circle that is uniform in -s..s.
  """
  factor_key, hue_key = jax.random.split(key)
  low, high = 1 - strength, 1 + strength
  brightness, contrast, saturation = jax.random.uniform(
    factor_key, (3,), minval=low, maxval=high
  )
  image = _blend(image, jnp.zeros_like(image), brightness)
  image = _blend(image, jnp.full_like(image, to_gray(image).mean()), contrast)
  image = _blend(image, to_gray(image), saturation)
  turn = jax.random.uniform(hue_key, (), minval=-strength, maxval=strength)
  return turn_hue(image, turn)


def to_gray(image: Float[Array, "height width 3"]) -> Float[Array, "height width 3"]:
  """Luminance in all three channels.

  Args:
    image: Red, green and blue in any unit.
  """
  shares = jnp.reshape(jnp.asarray(_LUMINANCE, image.dtype), (1, 1, 3))
  luminance = (image * shares).sum(-1, keepdims=True)
  return jnp.broadcast_to(luminance, image.shape)


def turn_hue(
  image: Float[Array, "height width 3"], turn: Float[Array, ""] | float
) -> Float[Array, "height width 3"]:
  """Turns the hue of an image in the HSV colour space; its value and chroma stay.

  Args:
    image: Red, green and blue in any unit.
    turn: Share of the circle; 1/3 makes red green.
  """
  red, green, blue = image[..., 0], image[..., 1], image[..., 2]
  value = image.max(-1)
  chroma = value - image.min(-1)
  divisor = jnp.where(chroma > 0, chroma, 1)  # grey has no hue
  sixths = jnp.where(
    red == value,
    (green - blue) / divisor,
    jnp.where(green == value, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
  )
  sixths = sixths + 6 * turn

  def channel(offset):
    place = (offset + sixths) % 6
    return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

  return jnp.stack([channel(offset) for offset in (5, 3, 1)], -1)


def _blend(image, other, factor):
  """The image, its distance from another multiplied; within 0..255."""
  return jnp.clip(other + factor * (image - other), 0, 255)

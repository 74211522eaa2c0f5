"""Random windows of an image, resized to its size, on the device."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key

_DRAWS = 10
_RATIOS = (3 / 4, 4 / 3)


def resized_crop(
  image: Float[Array, "height width channels"], key: Key[Array, ""], min_area: float
) -> Float[Array, "height width channels"]:
  """Cuts out a random window and resizes it to the size of the image.

  The window is drawn as by `RandomResizedCrop` of torchvision: its share of the area
  is uniform in min_area..1, the logarithm of width over height uniform between those
  of 3/4 and 4/3. The first of 10 draws that fits into the image counts; if none fits,
  the whole image.

  Args:
    image: The image.
    key: Random key.
    min_area: Smallest share of the area, above 0.
  """
  top, left, height, width = draw_window(key, image.shape[0], image.shape[1], min_area)
  rows = _bilinear(top, height, image.shape[0])
  columns = _bilinear(left, width, image.shape[1])
  # The default on GPUs and TPUs rounds whole numbers of pixels.
  exact = lax.Precision.HIGHEST
  image = jnp.einsum("oh,hwc->owc", rows, image, precision=exact)
  return jnp.einsum("ow,hwc->hoc", columns, image, precision=exact)


def draw_window(
  key: Key[Array, ""], height: int, width: int, min_area: float
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
  """Top, left, height and width of a random window, whole numbers of pixels.

  Args:
    key: Random key.
    height: Height of the image in pixels.
    width: Width of the image in pixels.
    min_area: Smallest share of the area, above 0.
  """
  area_key, ratio_key, place_key = jax.random.split(key, 3)
  areas = jax.random.uniform(area_key, (_DRAWS,), minval=min_area) * (height * width)
  low, high = map(math.log, _RATIOS)
  ratios = jnp.exp(jax.random.uniform(ratio_key, (_DRAWS,), minval=low, maxval=high))
  heights, widths = (jnp.round(jnp.sqrt(x)) for x in (areas / ratios, areas * ratios))
  fits = (heights <= height) & (widths <= width)
  first = jnp.argmax(fits)
  found_height = jnp.where(fits.any(), jnp.maximum(heights[first], 1), height)
  found_width = jnp.where(fits.any(), jnp.maximum(widths[first], 1), width)
  down, right = jax.random.uniform(place_key, (2,))
  top = jnp.floor(down * (height - found_height + 1))
  left = jnp.floor(right * (width - found_width + 1))
  return top, left, found_height, found_width


def _bilinear(first, size, length):
  """Weights [length, length] that stretch `size` pixels from `first` on to `length`."""
  centres = (jnp.arange(length, dtype=jnp.float32) + 0.5) * (size / length) - 0.5
  places = first + jnp.clip(centres, 0, size - 1)
  pixels = jnp.arange(length, dtype=jnp.float32)
  distances = jnp.abs(places[:, None] - pixels[None, :])
  return jnp.maximum(1 - distances, 0)

"""Augmentation and normalisation of images on the device, exactly reproducible."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import UInt8
from jaxtyping import UInt32

from flowkd_jax._numerics.checks import check_number
from flowkd_jax._numerics.checks import check_whole
from flowkd_jax.data._colors import jitter_colors
from flowkd_jax.data._colors import to_gray
from flowkd_jax.data._resized_crop import resized_crop

# Flips and crops split the key of an example, other changes fold this number into it,
# so that flips and crops do not depend on the other options.
_STREAM = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """Random changes of training images; none by default.

  With `flip`, `min_area=0.7`, `color_jitter=0.3` and `grayscale=0.1` images change as
  those of DomainBed (Gulrajani and Lopez-Paz, "In search of lost domain
  generalization", ICLR 2021), but colours change in a fixed order, and an image is
  rounded once.

  Attributes:
    flip: True to mirror left and right with probability 1/2.
    padding: Pixels of zeros on each side before a random crop back to the size of the
      image; 0 for no crop.
    min_area: Smallest share of the area of a random window, which is resized to the
      size of the image; 1 for the whole image.
    color_jitter: Strength in 0..0.5 of random changes of brightness, contrast,
      saturation and hue; 0 for none.
    grayscale: Probability of a grey image.

  Raises:
    ValueError: If a number is out of range.
    TypeError: If a value is not a number.
  """

  flip: bool = False
  padding: int = 0
  min_area: float = 1.0
  color_jitter: float = 0.0
  grayscale: float = 0.0

  def __post_init__(self):
    check_whole("padding", self.padding)
    if self.padding < 0:
      raise ValueError(
        f"padding: expected 0 (no crop) or more pixels, got {self.padding}"
      )
    _check_range("min_area", self.min_area, 0.0, 1.0, open_below=True)
    _check_range("color_jitter", self.color_jitter, 0.0, 0.5)
    _check_range("grayscale", self.grayscale, 0.0, 1.0)

  @property
  def needs_color(self) -> bool:
    """True if the augmentation needs images with red, green and blue channels."""
    return bool(self.color_jitter or self.grayscale)

  def recorded(self) -> dict[str, float]:
    """Options by name: `flip`, `padding`, and all others that differ from defaults.

    Records of earlier versions hold `flip` and `padding` alone; they still match.
    """
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name in ("flip", "padding") or getattr(self, field.name) != field.default
    }


def _check_range(name, value, least, most, *, open_below=False):
  check_number(name, value)
  if not least <= value <= most or (open_below and value == least):
    opening = "(" if open_below else "["
    raise ValueError(
      f"{name}: expected a number in {opening}{least:g}, {most:g}], got {value}"
    )


def example_keys(
  seed: int | UInt32[Array, ""],
  epoch: Int[Array, " batch"],
  index: Int[Array, " batch"],
) -> Key[Array, " batch"]:
  """Random key of each row, from seed, epoch and example index alone.

  The random numbers of an example thus depend neither on its batch nor on the number of
  devices, and can be drawn again later.
  """
  base = jax.random.key(seed)

  def row_key(row_epoch, row_index):
    return jax.random.fold_in(jax.random.fold_in(base, row_epoch), row_index)

  return jax.vmap(row_key)(epoch, index)


def augment(
  images: UInt8[Array, "batch height width channels"],
  keys: Key[Array, " batch"],
  *,
  flip: bool,
  padding: int,
  min_area: float = 1.0,
  color_jitter: float = 0.0,
  grayscale: float = 0.0,
) -> UInt8[Array, "batch height width channels"]:
  """Apply random crops, flips and colours, with a separate key for each row.

  As in the authors' code, images are padded before normalisation, so that the border is
  black and not the mean colour. Flips and padded crops do not depend on the other
  options.

  Args:
    images: Before normalisation.
    keys: One per row, from `example_keys`.
    flip: Mirror left and right with probability 1/2.
    padding: Zeros on each side before the crop; 0 for no crop.
    min_area: Smallest share of the area of a window that is resized; 1 for none.
    color_jitter: Strength of random changes of colours; 0 for none.
    grayscale: Probability of a grey image.

  Raises:
    ValueError: If a number is out of range, or colour options are used with images that
      do not have three channels.
  """
  options = Augmentation(
    flip=flip,
    padding=padding,
    min_area=min_area,
    color_jitter=color_jitter,
    grayscale=grayscale,
  )
  check_colors(options, images.shape[-1])
  crop_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  if padding:
    images = _random_crop(images, crop_keys, padding)
  if flip:
    chosen = jax.vmap(jax.random.bernoulli)(flip_keys)
    chosen = jnp.reshape(chosen, (-1, 1, 1, 1))
    images = jnp.where(chosen, images[:, :, ::-1], images)
  if min_area < 1 or options.needs_color:
    images = jax.vmap(lambda image, key: _resampled(image, key, options))(images, keys)
  return images


def check_colors(augmentation: Augmentation, channels: int) -> None:
  """Raise ValueError for colour options with images without three channels.

  Args:
    augmentation: The changes.
    channels: Number of channels of the images.
  """
  if augmentation.needs_color and channels != 3:
    raise ValueError(
      "color_jitter, grayscale: expected images with 3 channels (red, green, blue), "
      f"got {channels}; leave both at 0"
    )


def _resampled(
  image: UInt8[Array, "height width channels"],
  key: Key[Array, ""],
  options: Augmentation,
) -> UInt8[Array, "height width channels"]:
  """Apply random window and colours to an image, with a single rounding."""
  key = jax.random.fold_in(key, _STREAM)
  area_key, color_key, gray_key = jax.random.split(key, 3)
  changed = image.astype(jnp.float32)
  if options.min_area < 1:
    changed = resized_crop(changed, area_key, options.min_area)
  if options.color_jitter:
    changed = jitter_colors(changed, color_key, options.color_jitter)
  if options.grayscale:
    is_gray = jax.random.bernoulli(gray_key, options.grayscale)
    changed = jnp.where(is_gray, to_gray(changed), changed)
  return jnp.clip(jnp.round(changed), 0, 255).astype(jnp.uint8)


def _random_crop(
  images: UInt8[Array, "batch height width channels"],
  keys: Key[Array, " batch"],
  padding: int,
) -> UInt8[Array, "batch height width channels"]:
  size = images.shape[1:]
  sides = (padding, padding)
  padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))

  def crop(image, key):
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(image, (top, left, 0), size)

  return jax.vmap(crop)(padded, keys)


def normalize(
  images: UInt8[Array, "batch height width channels"],
  mean: Sequence[float],
  std: Sequence[float],
  dtype: DTypeLike = jnp.float32,
) -> Float[Array, "batch height width channels"]:
  """Normalise images: (image - mean) / std per channel, computed in float32.

  Args:
    images: Values 0..255.
    mean: Mean of each channel, in units of 0..255.
    std: Standard deviation of each channel, in units of 0..255.
    dtype: Dtype of the result.
  """
  check_normalization(mean, std, images.shape[-1])
  # Explicit axes: the suite runs with rank promotion forbidden.
  offset = np.asarray(mean, np.float32).reshape(1, 1, 1, -1)
  scale = np.asarray(std, np.float32).reshape(1, 1, 1, -1)
  return ((images.astype(jnp.float32) - offset) / scale).astype(dtype)


def check_normalization(
  mean: Sequence[float], std: Sequence[float], channels: int
) -> None:
  """Raise ValueError unless each channel has a finite mean and a std above 0."""
  if not len(mean) == len(std) == channels:
    raise ValueError(
      f"mean, std: expected {channels} numbers each (one per channel), got "
      f"{len(mean)} and {len(std)}"
    )
  for name, values in (("mean", mean), ("std", std)):
    try:
      finite = np.isfinite(np.asarray(values, np.float64))
    except (TypeError, ValueError):
      raise TypeError(f"{name}: expected numbers, got {values!r}") from None
    if not finite.all():
      raise ValueError(f"{name}: expected finite numbers, got {tuple(values)}")
  if not min(std) > 0:
    raise ValueError(f"std: expected numbers above 0, got {tuple(std)}")

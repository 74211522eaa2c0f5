"""Augmentation and normalisation, on the device, exactly replayable."""

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

from flowkd_jax._numerics.checks import check_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """Random changes of training images; none by default.

  Attributes:
    flip: mirror left and right with probability 1/2.
    padding: pixels of zeros on each side before a random crop back to the size
      of the image; 0 turns the crop off.
  """

  flip: bool = False
  padding: int = 0

  def __post_init__(self):
    check_whole("padding", self.padding)
    if self.padding < 0:
      raise ValueError(
        f"padding: expected 0 (no crop) or more pixels, got {self.padding}"
      )


def example_keys(
  seed: int | UInt32[Array, ""],
  epoch: Int[Array, " batch"],
  index: Int[Array, " batch"],
) -> Key[Array, " batch"]:
  """One key per row, of (seed, epoch, example index) and nothing else.

  The draw of an example therefore depends neither on the batch it came in, nor
  on the number of devices, and can be made again later.
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
) -> UInt8[Array, "batch height width channels"]:
  """Random crops and flips, each row by its own key.

  As in the authors' code, the image is padded before normalisation: the border
  is black, not the mean colour.

  Args:
    images: before normalisation.
    keys: one per row, from `example_keys`.
    flip: mirror left and right with probability 1/2.
    padding: zeros on each side before the crop; 0 for no crop.
  """
  crop_keys, flip_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  if padding:
    images = _random_crop(images, crop_keys, padding)
  if flip:
    chosen = jax.vmap(jax.random.bernoulli)(flip_keys)
    chosen = jnp.reshape(chosen, (-1, 1, 1, 1))
    images = jnp.where(chosen, images[:, :, ::-1], images)
  return images


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
  """(image - mean) / std per channel, computed in float32.

  Args:
    images: values 0..255.
    mean: per channel, in units of 0..255.
    std: per channel, in units of 0..255.
    dtype: of the result.
  """
  check_normalization(mean, std, images.shape[-1])
  # Explicit axes: the suite runs with rank promotion forbidden.
  offset = np.asarray(mean, np.float32).reshape(1, 1, 1, -1)
  scale = np.asarray(std, np.float32).reshape(1, 1, 1, -1)
  return ((images.astype(jnp.float32) - offset) / scale).astype(dtype)


def check_normalization(
  mean: Sequence[float], std: Sequence[float], channels: int
) -> None:
  """Raises ValueError unless there is one finite mean and std > 0 per channel."""
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

"""Decoding of image files into 8-bit pixels, with Pillow."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8

# Modes of Pillow by the number of channels that a data set declares.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# Modes that Pillow converts to each of `MODES` without a change of scale.
_CONVERTED = frozenset(
  ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")
)
# Formats whose mode "I" has 16 bits: PNG in older Pillow, Netpbm in all of them.
_SIXTEEN_BITS = ("PNG", "PPM")
_TIFF_PHOTOMETRIC, _TIFF_BITS = 262, 258
_BLACK_IS_ZERO = 1


def decode_image(
  encoded: bytes, channels: int
) -> UInt8[np.ndarray, "height width channels"]:
  """Pixels of a PNG, JPEG or other image file, in 0..255.

  Files whose format differs from the declaration of the data set are converted:

  - Palette, black-and-white, CMYK, YCbCr and CIELAB files become gray or RGB.
  - A gray file in a colour data set gets three equal channels. A colour file in a
    gray data set is reduced to its luminance (ITU-R 601-2).
  - Transparency is dropped where the data set declares no alpha channel: colours stay
    as they are stored, also below transparent pixels. Files without transparency get
    an alpha channel of 255 where the data set declares one.
  - Of channels of 16 bits the upper 8 bits are kept, as TensorFlow's decoder does.

  The orientation in EXIF metadata is not applied, as in tensorflow-datasets.

  Args:
    encoded: Content of the file.
    channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA).

  Raises:
    ValueError: If the range of values is unknown (32-bit integers, floats), the file is
      animated, or Pillow cannot read it.
  """
  from PIL import Image

  with Image.open(io.BytesIO(encoded)) as image:
    mode = MODES[channels]
    # Compared first, because `convert` copies the image even if nothing changes.
    if image.mode != mode or getattr(image, "is_animated", False):
      _check_one_picture(image)
      return _with_channels(_converted(image, mode), channels)
    return _with_channels(image, channels)


def _with_channels(image: Any, channels: int) -> np.ndarray:
  pixels = np.asarray(image)
  return pixels.reshape(*pixels.shape[:2], channels)


def _check_one_picture(image: Any) -> None:
  # Cameras write previews as further pictures of an MPO file, which is a JPEG.
  if image.format != "MPO" and getattr(image, "is_animated", False):
    raise ValueError(
      f"expected one picture in a file, got {image.format} with {image.n_frames} frames"
    )


def _converted(image: Any, mode: str) -> Any:
  if image.mode.startswith("I"):
    image = _upper_bits(image)
  elif image.mode == "LAB":  # Pillow converts it to RGB only.
    image = image.convert("RGB")
  elif image.mode == "P" and "transparency" in image.info:
    image = image.convert("RGBA")  # Any other mode is warned of.
  elif image.mode not in _CONVERTED:
    raise _unknown_range(image)
  return image if image.mode == mode else image.convert(mode)


def _upper_bits(image: Any) -> Any:
  """Convert a 16-bit gray image to 8 bits; `convert` would clip it at 255."""
  from PIL import Image

  tags = getattr(image, "tag_v2", None)
  sixteen = image.mode.startswith("I;16") or image.format in _SIXTEEN_BITS
  if not sixteen or (tags is not None and not _is_plain_tiff(tags)):
    raise _unknown_range(image)
  pixels = np.asarray(image).astype(np.uint16)
  return Image.fromarray((pixels >> 8).astype(np.uint8))


def _is_plain_tiff(tags: Any) -> bool:
  """Returns whether all 16 bits are used and black is 0, as Pillow requires."""
  bits, photometric = tags.get(_TIFF_BITS), tags.get(_TIFF_PHOTOMETRIC)
  return bits in (16, (16,)) and photometric == _BLACK_IS_ZERO


def _unknown_range(image: Any) -> ValueError:
  return ValueError(
    f"expected channels of 8 or 16 bits, got {image.format} of mode {image.mode}, "
    "whose range of values is not known; convert the images to 8 bits"
  )

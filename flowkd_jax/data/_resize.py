"""Resizing and rotation of images on the host, with Pillow."""

import numpy as np
from jaxtyping import UInt8


def fit_image(
  image: UInt8[np.ndarray, "height width channels"], size: int
) -> UInt8[np.ndarray, "size size channels"]:
  """Resize the shorter side to `size`, then cut out the centre."""
  from PIL import Image

  height, width, channels = image.shape
  if height == width == size:
    return image
  scale = size / min(height, width)
  resized = (max(size, round(width * scale)), max(size, round(height * scale)))
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  pixels = np.asarray(picture.resize(resized, Image.Resampling.BILINEAR))
  top = (pixels.shape[0] - size) // 2
  left = (pixels.shape[1] - size) // 2
  centre = pixels[top : top + size, left : left + size]
  return centre.reshape(size, size, channels)


def rotate_image(
  image: UInt8[np.ndarray, "height width channels"], degrees: float
) -> UInt8[np.ndarray, "height width channels"]:
  """Rotate an image counter-clockwise about its centre; uncovered pixels are black."""
  from PIL import Image

  if degrees == 0:
    return image
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  turned = picture.rotate(degrees, Image.Resampling.BILINEAR)
  return np.asarray(turned).reshape(image.shape)

"""Splits of rotated parts, such as "train[:1000]@0+train[1000:2000]@15"."""

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from jaxtyping import Int32
from jaxtyping import UInt8

from flowkd_jax.data._resize import rotate_image
from flowkd_jax.data._split import Source

_PART = re.compile(r"(?P<split>[^@]+?)(@(?P<degrees>-?\d+(\.\d+)?))?")


@dataclasses.dataclass(frozen=True, eq=False)
class RotatedSource:
  """`Source` that joins parts of a data set, each rotated by its own angle.

  Attributes:
    split: Text by which the source was opened.
    parts: Sources, in the order of their examples.
    degrees: Angle in degrees by which the images of each source are rotated, counter-
      clockwise.
    num_examples: Number of examples, or the number to take.
  """

  split: str
  parts: Sequence[Source]
  degrees: Sequence[float]
  num_examples: int

  @property
  def name(self) -> str:
    """Data set, for example "mnist"."""
    return self.parts[0].name

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of every image."""
    return self.parts[0].image_shape

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes."""
    return self.parts[0].class_names

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return self.parts[0].num_classes

  @property
  def num_bytes(self) -> int:
    """Memory of all images in bytes."""
    return self.num_examples * int(np.prod(self.image_shape))

  def read(
    self, indices: Int[np.ndarray, " rows"]
  ) -> tuple[
    UInt8[np.ndarray, "rows height width channels"],
    Int32[np.ndarray, " rows"],
  ]:
    """Images and labels of the examples `indices`, in that order."""
    images = np.empty((len(indices), *self.image_shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    start = 0
    for part, degrees in zip(self.parts, self.degrees, strict=True):
      rows = (indices >= start) & (indices < start + part.num_examples)
      found, labels[rows] = part.read(indices[rows] - start)
      for row, image in zip(np.flatnonzero(rows), found, strict=True):
        images[row] = rotate_image(image, degrees)
      start += part.num_examples
    return images, labels


def is_rotated(split: str) -> bool:
  """Returns whether a part of the split has an angle."""
  return "@" in split


def open_rotated(
  split: str, open_part: Callable[[str], Source], limit: int | None
) -> RotatedSource:
  """Open the rotated parts of a split of one data set.

  Raises:
    ValueError: If a part is not SPLIT or SPLIT@DEGREES.
  """
  parts, angles = [], []
  for text in split.split("+"):
    match = _PART.fullmatch(text)
    if match is None:
      raise ValueError(
        f"split: expected SPLIT@DEGREES for each part, such as train[:1000]@15, got "
        f"{text!r} in {split!r}"
      )
    parts.append(open_part(match["split"]))
    angles.append(float(match["degrees"] or 0))
  count = sum(part.num_examples for part in parts)
  count = count if limit is None else min(limit, count)
  return RotatedSource(split, parts, angles, count)

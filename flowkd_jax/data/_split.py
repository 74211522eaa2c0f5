"""Examples of a split, in memory or on disk, and their checks."""

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable
from typing import Any
from typing import Protocol

import numpy as np
from jaxtyping import Int
from jaxtyping import Int32
from jaxtyping import UInt8

from flowkd_jax.data._order import permutation

# Number of pixels that a thread counts at a time. It limits the memory, because
# `bincount` converts pixels to 8-byte integers.
_CHUNK = 2**22


class Source(Protocol):
  """Source of examples that can be read in any order, from memory or disk."""

  @property
  def name(self) -> str:
    """Data set, for example "cifar10"."""
    ...

  @property
  def split(self) -> str:
    """Name of the part, for example "train"."""
    ...

  @property
  def num_examples(self) -> int:
    """Number of examples."""
    ...

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of every image."""
    ...

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes."""
    ...

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    ...

  @property
  def num_bytes(self) -> int:
    """Memory of all images in bytes."""
    ...

  def read(
    self, indices: Int[np.ndarray, " rows"]
  ) -> tuple[
    UInt8[np.ndarray, "rows height width channels"],
    Int32[np.ndarray, " rows"],
  ]:
    """Images and labels of the examples `indices`, in that order."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """A split of an image-classification data set, in host memory.

  Attributes:
    name: Name of the data set, for example "cifar10".
    split: Name of a part, for example "train" or "train[:10%]".
    images: uint8 [examples, height, width, channels].
    labels: int32 [examples], each in 0..num_classes-1.
    class_names: Name of each class.
  """

  name: str
  split: str
  images: UInt8[np.ndarray, "examples height width channels"]
  labels: Int32[np.ndarray, " examples"]
  class_names: tuple[str, ...]

  def __post_init__(self):
    title = f"{self.name} {self.split}"
    check_images(title, self.images)
    if len(self.images) == 0:
      raise ValueError(
        f"{title}: expected at least one example, got none; choose a larger "
        "split or limit"
      )
    _check_numpy(title, "labels", self.labels)
    if self.labels.shape != self.images.shape[:1]:
      raise ValueError(
        f"{title}: expected one label per image, that is shape "
        f"{self.images.shape[:1]}, got {self.labels.shape}"
      )
    check_labels(title, self.labels, len(self.class_names or ()))

  def __len__(self) -> int:
    return len(self.images)

  @property
  def num_examples(self) -> int:
    """Number of examples."""
    return len(self.images)

  @property
  def num_classes(self) -> int:
    """Number of classes, including classes without examples in this split."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of every image."""
    height, width, channels = self.images.shape[1:]
    return height, width, channels

  @property
  def num_bytes(self) -> int:
    """Memory of all images in bytes."""
    return self.images.nbytes

  def read(
    self, indices: Int[np.ndarray, " rows"]
  ) -> tuple[
    UInt8[np.ndarray, "rows height width channels"],
    Int32[np.ndarray, " rows"],
  ]:
    """Images and labels of the examples `indices`, in that order."""
    return self.images[indices], self.labels[indices]

  def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all images."""
    return channel_statistics(self)


def channel_statistics(
  source: Source,
  *,
  examples: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each channel, in units of 0..255.

  The result is exact over all pixels of the images read, and independent of the number
  of threads. A constant channel gets the standard deviation 1, so that division by it
  is safe.

  Args:
    source: The images.
    examples: Maximum number of images to read, a fixed random sample; None for all.
    progress: Function that is called with (images done, images in all) now and then.

  Raises:
    ValueError: If an image cannot be read. The message names the image.
  """
  indices = _drawn(source.num_examples, examples)
  rows = max(1, _CHUNK // math.prod(source.image_shape))
  chunks = [indices[start : start + rows] for start in range(0, len(indices), rows)]
  counts = np.zeros((source.image_shape[-1], 256), np.int64)
  done = 0
  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = pool.map(lambda chunk: _level_counts(source, chunk), chunks)
    for chunk, levels in zip(chunks, found, strict=True):
      counts += levels
      done += len(chunk)
      if progress is not None:
        progress(done, len(indices))
  return _moments(counts)


def _drawn(total: int, examples: int | None) -> Int32[np.ndarray, " drawn"]:
  """Indices of the examples to read, sorted, as this is fastest for files."""
  if examples is None or examples >= total:
    return np.arange(total, dtype=np.int32)
  return np.sort(permutation(0, 0, total)[:examples])


def _level_counts(
  source: Source, indices: Int32[np.ndarray, " rows"]
) -> Int[np.ndarray, "channels 256"]:
  """Number of pixels of each of the 256 levels, by channel."""
  images, _ = source.read(indices)
  channels = np.moveaxis(images, -1, 0)
  return np.stack([np.bincount(pixels.ravel(), minlength=256) for pixels in channels])


def _moments(
  counts: Int[np.ndarray, "channels 256"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  weights = counts / counts.sum(axis=1, keepdims=True)
  levels = np.arange(256.0)
  mean = weights @ levels
  variance = (weights * (levels - mean[:, None]) ** 2).sum(axis=1)
  deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
  return tuple(mean.tolist()), tuple(deviation.tolist())


def check_images(name: str, images: np.ndarray) -> None:
  """Raise unless `images` is uint8 [examples, height, width, channels]."""
  _check_numpy(name, "images", images)
  if images.dtype != np.uint8:
    raise TypeError(
      f"{name}: expected uint8 images in 0..255, got dtype {images.dtype}; "
      "rescale and convert them with .astype(np.uint8)"
    )
  if images.ndim != 4:
    raise ValueError(
      f"{name}: expected images of shape [examples, height, width, channels], "
      f"got {images.shape}; give gray images one channel with [..., None]"
    )
  if 0 in images.shape[1:]:
    raise ValueError(f"{name}: expected images with pixels, got shape {images.shape}")


def check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
  """Raise unless `labels` is int32 within 0..num_classes-1."""
  if labels.dtype != np.int32:
    raise TypeError(
      f"{name}: expected int32 labels, got dtype {labels.dtype}; convert them "
      "with .astype(np.int32)"
    )
  if num_classes < 1:
    raise ValueError(f"{name}: expected a name for each class, got no class_names")
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if wrong.size:
    raise ValueError(
      f"{name}: expected labels in 0..{num_classes - 1}, got labels in "
      f"{labels.min()}..{labels.max()} (first wrong at example {wrong[0]}); "
      "choose a split whose examples are all labelled, or name every class"
    )


def _check_numpy(name: str, argument: str, value: Any) -> None:
  if not isinstance(value, np.ndarray):
    raise TypeError(
      f"{name}: expected {argument} as a NumPy array, got a {type(value).__name__}; "
      "convert them with numpy.asarray"
    )

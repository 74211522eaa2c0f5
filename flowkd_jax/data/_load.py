"""Opening and loading a split by name."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable

import numpy as np

from flowkd_jax._numerics.checks import check_count
from flowkd_jax.data._digits import DIGITS_SPLITS
from flowkd_jax.data._digits import load_digits
from flowkd_jax.data._resize import fit_image
from flowkd_jax.data._rotated import is_rotated
from flowkd_jax.data._rotated import open_rotated
from flowkd_jax.data._split import Source
from flowkd_jax.data._split import Split
from flowkd_jax.data._tfds import open_tfds
from flowkd_jax.data._tfds import tfds_splits

# Examples a thread decodes at a time: enough to read in one go, few enough for a
# progress bar to move.
_CHUNK = 256


def open_source(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  image_size: int | None = None,
  image_key: str | None = None,
  label_key: str | None = None,
  limit: int | None = None,
) -> Source:
  """Opens a split without decoding its images.

  Number of examples, image shape and class names are known at once; images are
  read on demand. Nothing is downloaded and TensorFlow is not needed.

  Args:
    name: "digits" (ships with scikit-learn, 8 x 8) or an image-classification
      data set of tensorflow-datasets, prepared as array_record. A version and a
      configuration may follow: "cifar10:3.0.2".
    split: "train", "test", "train[:10%]", "train+test" and so on. Parts may be
      rotated by an angle in degrees, counter-clockwise: "train@15", or
      "train[:1000]@0+train[1000:2000]@30".
    data_dir: Folder of the prepared data sets; None for TFDS_DATA_DIR, or else
      ~/tensorflow_datasets.
    image_size: Height and width to bring the images to (the shorter side is
      resized, then the centre cut out); None keeps them. Needed where images
      differ in size.
    image_key: Feature that holds the image; None to find it by its type (see below).
    label_key: Feature that holds the class label; None to find it by its type.
    limit: Keep the first `limit` examples only.

  Features are taken that the data set names for supervised training; failing this,
  those called "image" and "label"; failing this, the only `Image` and the only
  `ClassLabel`. Images of 16 bits keep their upper 8 bits, palettes and CMYK become
  RGB, transparency is dropped unless the data set declares an alpha channel.

  Raises:
    DatasetNotPreparedError: If the data set is not prepared on this machine.
    ValueError: Unknown name or split, no image or label, several to choose from,
      number out of range.
  """
  for argument, value in (("image_size", image_size), ("limit", limit)):
    if value is not None:
      check_count(argument, value)
  for argument, value in (("name", name), ("split", split)):
    if not isinstance(value, str):
      raise TypeError(f"{argument}: expected a string, got {value!r}")
  for argument, key in (("image_key", image_key), ("label_key", label_key)):
    if key is not None and name == "digits":
      raise ValueError(
        f"{argument}: expected none for 'digits', which has one image "
        f"and one label, got {key!r}; leave it out"
      )

  def open_part(split: str, limit: int | None = None) -> Source:
    if name == "digits":
      return _open_digits(split, image_size, limit)
    return open_tfds(
      name,
      split,
      data_dir=data_dir,
      image_size=image_size,
      image_key=image_key,
      label_key=label_key,
      limit=limit,
    )

  if is_rotated(split):
    return open_rotated(split, open_part, limit)
  return open_part(split, limit)


def split_names(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> tuple[str, ...]:
  """Names of the splits that a data set has, for example ("train", "test").

  Args:
    name: See `open_source`.
    data_dir: See `open_source`.

  Raises:
    DatasetNotPreparedError: If the data set is not prepared on this machine.
    ValueError: Unknown name.
  """
  return DIGITS_SPLITS if name == "digits" else tfds_splits(name, data_dir=data_dir)


def load(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  image_size: int | None = None,
  image_key: str | None = None,
  label_key: str | None = None,
  limit: int | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Split:
  """Loads the examples of a split into host memory.

  Args:
    name: See `open_source`.
    split: See `open_source`.
    data_dir: See `open_source`.
    image_size: See `open_source`.
    image_key: See `open_source`.
    label_key: See `open_source`.
    limit: See `open_source`.
    progress: Function that is called with (examples done, examples in all).

  Raises:
    DatasetNotPreparedError: If the data set is not prepared on this machine.
    ValueError: Unknown name or split, no image or label, several to choose from,
      number out of range, or an example that cannot be read; names it.
  """
  source = open_source(
    name,
    split,
    data_dir=data_dir,
    image_size=image_size,
    image_key=image_key,
    label_key=label_key,
    limit=limit,
  )
  if isinstance(source, Split):
    return source
  return _read_all(source, progress or (lambda done, total: None))


def _read_all(source: Source, progress: Callable[[int, int], None]) -> Split:
  """Reads every example, a chunk per thread at a time."""
  total = source.num_examples
  images = np.empty((total, *source.image_shape), np.uint8)
  labels = np.empty(total, np.int32)

  def read_chunk(start: int) -> int:
    rows = slice(start, min(start + _CHUNK, total))
    images[rows], labels[rows] = source.read(np.arange(rows.start, rows.stop))
    return rows.stop

  # `map` cancels what has not started when a chunk fails.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for done in pool.map(read_chunk, range(0, total, _CHUNK)):
      progress(done, total)
  return Split(
    name=source.name,
    split=source.split,
    images=images,
    labels=labels,
    class_names=source.class_names,
  )


def _open_digits(split: str, image_size: int | None, limit: int | None) -> Split:
  loaded = load_digits(split)
  images = loaded.images[:limit]
  if image_size is not None:
    images = np.stack([fit_image(image, image_size) for image in images])
  return dataclasses.replace(loaded, images=images, labels=loaded.labels[:limit])

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

# Number of examples that a thread decodes at a time: large enough for efficient reads,
# small enough for a progress bar.
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
  """Open a split without decoding its images.

  Number of examples, image shape and class names are available immediately. Images are
  read on demand. Nothing is downloaded, and TensorFlow is not needed.

  Args:
    name: "digits" (ships with scikit-learn, 8 x 8) or an image-classification
      data set of tensorflow-datasets, prepared as array_record. A version and a
      configuration may follow: "cifar10:3.0.2".
    split: "train", "test", "train[:10%]", "train+test" and so on. Parts may be
      rotated by an angle in degrees, counter-clockwise: "train@15", or
      "train[:1000]@0+train[1000:2000]@30".
    data_dir: Folder of the prepared data sets. None for the folder in TFDS_DATA_DIR, or
      ~/tensorflow_datasets if that is not set.
    image_size: Height and width of the result: the shorter side is resized to it, then
      the centre is cut out. None keeps the size. Required if images differ in size.
    image_key: Feature that holds the image; None to find it by its type (see below).
    label_key: Feature that holds the class label; None to find it by its type.
    limit: Maximum number of examples, counted from the first.

  Without keys, the features are those that the data set names for supervised training;
  otherwise "image" and "label"; otherwise the only `Image` and the only `ClassLabel`.
  Images of 16 bits keep their upper 8 bits, palettes and CMYK become RGB, and
  transparency is dropped unless the data set declares an alpha channel.

  Raises:
    DatasetNotPreparedError: If the data set is not prepared on this machine. The
      message gives the command that prepares it.
    ValueError: If a name or split is unknown, if there is no image or label, or several
      without a choice, or if a number is out of range.
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
    ValueError: If the name is unknown.
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
  """Load the examples of a split into host memory.

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
    ValueError: If a name or split is unknown, if there is no image or label, or several
      without a choice, if a number is out of range, or if an example cannot be read.
      The message names the example.
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
  """Read all examples in several threads, chunk by chunk."""
  total = source.num_examples
  images = np.empty((total, *source.image_shape), np.uint8)
  labels = np.empty(total, np.int32)

  def read_chunk(start: int) -> int:
    rows = slice(start, min(start + _CHUNK, total))
    images[rows], labels[rows] = source.read(np.arange(rows.start, rows.stop))
    return rows.stop

  # If a chunk fails, `map` cancels the chunks that have not started.
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

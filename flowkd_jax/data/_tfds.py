"""Image-classification data sets of tensorflow-datasets, without TensorFlow."""

import dataclasses
import difflib
import functools
import math
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int
from jaxtyping import Int32
from jaxtyping import UInt8

from flowkd_jax.data._decode import decode_image
from flowkd_jax.data._prepared import DatasetNotPreparedError
from flowkd_jax.data._prepared import data_root
from flowkd_jax.data._prepared import not_prepared
from flowkd_jax.data._prepared import preparation
from flowkd_jax.data._prepared import prepared_folder
from flowkd_jax.data._resize import fit_image
from flowkd_jax.data._split import check_labels


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
  """A `Source` on disk: opening it reads metadata only."""

  name: str
  split: str
  num_examples: int
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]
  builder: Any
  image_key: str
  label_key: str
  resized: bool

  @property
  def num_classes(self) -> int:
    """Number of classes, those absent from this split included."""
    return len(self.class_names)

  @property
  def num_bytes(self) -> int:
    """Memory that all images would take."""
    return self.num_examples * math.prod(self.image_shape)

  @functools.cached_property
  def _records(self) -> Any:
    import tensorflow_datasets as tfds

    return self.builder.as_data_source(
      self.split,
      file_format="array_record",
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
    )

  @functools.cached_property
  def _features(self) -> Any:
    """Image and label alone: other features would be decoded in vain."""
    import tensorflow_datasets as tfds

    features = self.builder.info.features
    keys = (self.image_key, self.label_key)
    return tfds.features.FeaturesDict({key: features[key] for key in keys})

  @functools.cached_property
  def _decoders(self) -> dict[str, Any]:
    """Leaves images encoded: tensorflow-datasets would decode at half speed."""
    import tensorflow_datasets as tfds

    return {self.image_key: tfds.decode.SkipDecoding()}

  def read(
    self, indices: Int[np.ndarray, " rows"]
  ) -> tuple[
    UInt8[np.ndarray, "rows height width channels"],
    Int32[np.ndarray, " rows"],
  ]:
    """Images and labels of the examples `indices`, in that order.

    Raises:
      ValueError: a label is out of range, an image is not of `image_shape`.
    """
    images = np.empty((len(indices), *self.image_shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    records = self._records.__getitems__([int(index) for index in indices])
    for row, record in enumerate(records):
      example = self._features.deserialize_example_np(record, decoders=self._decoders)
      images[row] = self._fit(example[self.image_key])
      labels[row] = example[self.label_key]
    check_labels(f"{self.name} {self.split}", labels, len(self.class_names))
    return images, labels

  def _fit(self, encoded: bytes) -> UInt8[np.ndarray, "height width channels"]:
    image = decode_image(encoded, self.image_shape[-1])
    if self.resized:
      return fit_image(image, self.image_shape[0])
    if image.shape != self.image_shape:
      raise ValueError(
        f"{self.name} {self.split}: expected every image to have shape "
        f"{self.image_shape}, got {image.shape}; pass image_size"
      )
    return image


def open_tfds(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike[str] | None,
  image_size: int | None,
  limit: int | None,
) -> TfdsSource:
  """Opens a prepared split: see `open_source`."""
  tfds = _import_tfds()
  builder = _builder(name, data_root(data_dir), tfds)
  image_key, label_key = _find_keys(name, builder.info, tfds)
  features = builder.info.features
  return TfdsSource(
    name=name,
    split=split,
    num_examples=_count_examples(name, split, builder.info, limit),
    image_shape=_image_shape(name, features[image_key], image_size),
    class_names=tuple(features[label_key].names),
    builder=builder,
    image_key=image_key,
    label_key=label_key,
    resized=image_size is not None,
  )


def tfds_splits(
  name: str, *, data_dir: str | os.PathLike[str] | None
) -> tuple[str, ...]:
  """Names of the splits of a prepared data set."""
  return tuple(_builder(name, data_root(data_dir), _import_tfds()).info.splits)


def _builder(name: str, root: pathlib.Path, tfds: Any) -> Any:
  """Of a data set that is prepared in a format that can be read."""
  folder = prepared_folder(name, root)
  if folder is None:
    _check_known(name, tfds.list_builders(with_community_datasets=False), root)
    raise not_prepared(name, root)
  builder = tfds.builder_from_directory(folder)
  formats = {form.value for form in builder.info.available_file_formats()}
  if "array_record" not in formats:
    raise DatasetNotPreparedError(
      f"{name}: {folder} holds the format {', '.join(sorted(formats))}, which "
      "only TensorFlow reads; expected array_record. Prepare it in another "
      "folder, or delete this one first, because tensorflow-datasets leaves a "
      f"prepared folder as it is. {preparation(name, root)}"
    )
  return builder


def _import_tfds() -> Any:
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise ImportError(
      "data sets other than 'digits' need tensorflow-datasets: "
      "pip install 'flowkd_jax[train]'"
    ) from error
  return tensorflow_datasets


def _check_known(name: str, known: list[str], root: pathlib.Path) -> None:
  dataset = name.split(":")[0].split("/")[0]
  if dataset in known:
    return
  nearest = difflib.get_close_matches(dataset, [*known, "digits"], n=3)
  hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
  raise ValueError(
    "name: expected 'digits', a data set of tensorflow-datasets or one prepared by its "
    f"name under {root}, got {name!r}{hint}"
  )


def _find_keys(name: str, info: Any, tfds: Any) -> tuple[str, str]:
  """Names of the image and of its label among the features."""
  features = dict(info.features.items())
  for keys in (info.supervised_keys, ("image", "label")):
    image, label = map(features.get, keys) if keys else (None, None)
    if isinstance(image, tfds.features.Image) and isinstance(
      label, tfds.features.ClassLabel
    ):
      return keys[0], keys[1]
  raise ValueError(
    f"{name}: expected an image and its class label among the features, got "
    f"{', '.join(features)}; choose an image-classification data set"
  )


def _count_examples(name: str, split: str, info: Any, limit: int | None) -> int:
  try:
    count = info.splits[split].num_examples
  except ValueError as error:
    raise ValueError(f"split of {name}: {error}") from None
  if count == 0:
    raise ValueError(
      f"split of {name}: expected at least one example, but {split!r} is empty"
    )
  return count if limit is None else min(limit, count)


def _image_shape(
  name: str, feature: Any, image_size: int | None
) -> tuple[int, int, int]:
  """Shape of the images as they will be read."""
  if feature.np_dtype != np.uint8:
    raise ValueError(f"{name}: expected images of 8 bits, got dtype {feature.np_dtype}")
  height, width, channels = feature.shape
  channels = channels or 3
  if image_size is not None:
    return image_size, image_size, channels
  if height is None or width is None:
    raise ValueError(
      f"{name}: the images differ in size; expected image_size, for example "
      "image_size=224, to resize the shorter side and cut out the centre"
    )
  return height, width, channels

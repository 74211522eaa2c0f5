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

from flowkd_jax.data._decode import MODES
from flowkd_jax.data._decode import decode_image
from flowkd_jax.data._feature_keys import find_keys
from flowkd_jax.data._prepared import DatasetNotPreparedError
from flowkd_jax.data._prepared import data_root
from flowkd_jax.data._prepared import not_prepared
from flowkd_jax.data._prepared import preparation
from flowkd_jax.data._prepared import prepared_folder
from flowkd_jax.data._resize import fit_image


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
  """`Source` on disk; opening it reads only metadata."""

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
    """Number of classes, including classes without examples in this split."""
    return len(self.class_names)

  @property
  def num_bytes(self) -> int:
    """Memory of all decoded images in bytes."""
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
    """Features image and label alone, so that no others are decoded."""
    import tensorflow_datasets as tfds

    features = self.builder.info.features
    keys = (self.image_key, self.label_key)
    return tfds.features.FeaturesDict({key: features[key] for key in keys})

  @functools.cached_property
  def _decoders(self) -> dict[str, Any]:
    """Decoders that leave images encoded, as Pillow decodes twice as fast."""
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
      ValueError: If an example cannot be read or decoded, its label is out of range, or
        its image does not have `image_shape`. The message names the example and its
        file.
    """
    images = np.empty((len(indices), *self.image_shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for row, record in enumerate(self._fetch(indices)):
      index = int(indices[row])
      # Damaged bytes can raise any exception in Pillow and protobuf.
      try:
        example = self._features.deserialize_example_np(record, decoders=self._decoders)
        image = decode_image(example[self.image_key], self.image_shape[-1])
      except (ImportError, MemoryError):
        raise
      except Exception as error:
        raise ValueError(
          f"{self._title(index)} cannot be read: {error} ({type(error).__name__}); "
          "replace it and prepare the data set again, or choose a split without it"
        ) from error
      images[row] = self._fit(image, index)
      labels[row] = self._checked_label(example[self.label_key], index)
    return images, labels

  def _fetch(self, indices: Int[np.ndarray, " rows"]) -> Any:
    wanted = [int(index) for index in indices]
    try:
      return self._records.__getitems__(wanted)
    except (ImportError, MemoryError):
      raise
    except Exception as error:
      raise ValueError(
        f"{self.name} {self.split}: examples {min(wanted)} to {max(wanted)} cannot be "
        f"read from {self.builder.data_dir}: {error} ({type(error).__name__}); prepare "
        "the data set again"
      ) from error

  def _fit(
    self, image: UInt8[np.ndarray, "height width channels"], index: int
  ) -> UInt8[np.ndarray, "height width channels"]:
    if self.resized:
      return fit_image(image, self.image_shape[0])
    if image.shape != self.image_shape:
      raise ValueError(
        f"{self._title(index)}: expected every image to have shape "
        f"{self.image_shape}, got {image.shape}; pass image_size (--image_size)"
      )
    return image

  def _checked_label(self, label: Any, index: int) -> int:
    number = int(label)
    if not 0 <= number < self.num_classes:
      raise ValueError(
        f"{self._title(index)}: expected labels in 0..{self.num_classes - 1}, got "
        f"{number}; choose a split whose examples are all labelled, or name every class"
      )
    return number

  def _title(self, index: int) -> str:
    """Description of an example: data set, split, number and file."""
    title = f"{self.name} {self.split}: example {index}"
    for part in self.builder.info.splits[self.split].file_instructions:
      if index < part.examples_in_shard:
        return f"{title} (record {part.skip + index} of {part.filename})"
      index -= part.examples_in_shard
    return title


def open_tfds(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike[str] | None,
  image_size: int | None,
  image_key: str | None,
  label_key: str | None,
  limit: int | None,
) -> TfdsSource:
  """Open a prepared split; see `open_source`."""
  tfds = _import_tfds()
  builder = _builder(name, data_root(data_dir), tfds)
  image_key, label_key = find_keys(
    name, builder.info, image_key=image_key, label_key=label_key
  )
  features = builder.info.features
  return TfdsSource(
    name=name,
    split=split,
    num_examples=_count_examples(name, split, builder.info, limit),
    image_shape=_image_shape(name, features[image_key], image_size),
    class_names=_class_names(name, features[label_key]),
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


def tfds_infos(name: str, *, data_dir: str | os.PathLike[str] | None) -> dict[str, Any]:
  """Sizes of the splits of a prepared data set, by name."""
  return dict(_builder(name, data_root(data_dir), _import_tfds()).info.splits)


def _builder(name: str, root: pathlib.Path, tfds: Any) -> Any:
  """Builder of a data set that is prepared in a readable format."""
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
  """Shape of the images after reading."""
  if feature.np_dtype not in (np.uint8, np.uint16):
    raise ValueError(
      f"{name}: expected images of 8 or 16 bits, got dtype {feature.np_dtype}, whose "
      "range of values is not known; prepare the data set with images of 8 bits"
    )
  shape = feature.shape
  if len(shape) != 3 or shape[-1] not in (None, *MODES):
    raise ValueError(
      f"{name}: expected images of shape (height, width, channels) with "
      f"{', '.join(map(str, MODES))} channels, got {shape}"
    )
  height, width, channels = shape
  channels = channels or 3
  if image_size is not None:
    return image_size, image_size, channels
  if height is None or width is None:
    raise ValueError(
      f"{name}: the images differ in size; expected image_size, for example "
      "image_size=224, to resize the shorter side and cut out the centre"
    )
  return height, width, channels


def _class_names(name: str, feature: Any) -> tuple[str, ...]:
  if not feature.num_classes:  # Then `names` raises TypeError.
    raise ValueError(
      f"{name}: expected a class label with names or a number of classes, got one "
      "without; prepare the data set with features.ClassLabel(names=[...])"
    )
  return tuple(feature.names)

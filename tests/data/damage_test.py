"""Examples that cannot be read are named, with data set, split and file."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from flowkd_jax import data
from flowkd_jax.data import _tfds

FEATURES = {
  "image": tfds.features.Image(shape=(16, 16, 3)),
  "label": tfds.features.ClassLabel(num_classes=3),
}


def png(shape=(16, 16, 3)):
  file = io.BytesIO()
  Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(
    file, "PNG"
  )
  return file.getvalue()


def examples(image=None, label=0):
  good = {"image": png(), "label": 1}
  bad = {"image": png() if image is None else image, "label": label}
  return [good, good, bad, good]


def place(folder):
  """Index of the damaged example after tensorflow-datasets has shuffled."""
  builder = tfds.builder_from_directory(folder / "made" / "1.0.0")
  features = builder.as_data_source(
    "train", decoders={"image": tfds.decode.SkipDecoding()}
  )
  return [record["label"] for record in features].index(0)


DAMAGED = [(png()[:300], OSError), (b"", OSError), (b"nothing", OSError)]


@pytest.mark.parametrize(("image", "cause"), DAMAGED)
def test_load_names_an_image_that_cannot_be_decoded(prepare, image, cause):
  folder = prepare(FEATURES, examples(image))
  index = place(folder)
  match = rf"made train: example {index} \(record {index} of .*made-train.array_record"
  with pytest.raises(ValueError, match=match) as caught:
    data.load("made", "train", data_dir=folder)
  assert isinstance(caught.value.__cause__, cause)


def test_streams_name_an_image_that_cannot_be_decoded(prepare):
  folder = prepare(FEATURES, examples(png()[:300]))
  index = place(folder)
  source = data.open_source("made", f"train[{index}:]", data_dir=folder)
  batches = data.training_batches(
    source, batch_size=1, seed=0, mean=(0.0,) * 3, std=(1.0,) * 3
  )
  match = rf"made train\[{index}:\]: example 0 \(record {index} of .*made-train"
  with pytest.raises(ValueError, match=match):
    list(batches.epoch(0))


def test_load_names_an_image_of_another_shape(prepare):
  folder = prepare(FEATURES, examples(png((8, 16, 3))))
  match = rf"example {place(folder)} .*shape \(16, 16, 3\), got \(8, 16, 3\); pass"
  with pytest.raises(ValueError, match=match):
    data.load("made", "train", data_dir=folder)


def test_load_names_a_label_that_is_no_class(prepare):
  folder = prepare(FEATURES, examples(label=0))
  index = place(folder)
  (folder / "made/1.0.0/label.labels.txt").unlink(missing_ok=True)
  source = data.open_source("made", "train", data_dir=folder)
  object.__setattr__(source, "class_names", ("only",))
  match = rf"example {min({0, 1, 2, 3} - {index})} .*labels in 0\.\.0, got 1; choose"
  with pytest.raises(ValueError, match=match):
    source.read(np.arange(4))


def test_load_names_a_damaged_file(prepare):
  folder = prepare(FEATURES, examples())
  (file,) = (folder / "made" / "1.0.0").glob("*array_record*")
  content = bytearray(file.read_bytes())
  content[100:400] = bytes(300)
  file.write_bytes(content)
  with pytest.raises(ValueError, match=r"made train: example"):
    data.load("made", "train", data_dir=folder)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    (
      {"shape": (None, None, 1), "dtype": np.float32},
      "made: expected images of 8 or 16 bits, got dtype .*float32",
    ),
    ({"shape": (9, 4, 4, 3)}, r"made: expected images of shape \(height, width"),
  ],
)
def test_images_of_other_kinds_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    _tfds._image_shape("made", tfds.features.Image(**options), 4)


def test_labels_without_a_number_of_classes_are_refused():
  with pytest.raises(ValueError, match="made: expected a class label with names or"):
    _tfds._class_names("made", tfds.features.ClassLabel())


def test_load_scales_images_of_sixteen_bits(prepare):
  values = np.random.default_rng(1).integers(0, 2**16, (3, 4)).astype(np.uint16)
  file = io.BytesIO()
  Image.fromarray(values).save(file, "PNG")
  file.seek(0)
  image = tfds.features.Image(shape=(3, 4, 1), dtype=np.uint16)
  folder = prepare({**FEATURES, "image": image}, [{"image": file, "label": 0}])
  split = data.load("made", "train", data_dir=folder)
  np.testing.assert_array_equal(split.images[0, ..., 0], values >> 8)

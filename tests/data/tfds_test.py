import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from flowkd_jax import data


def image_of(index):
  """The pixels of an example of `tiny_fixed`."""
  return np.random.default_rng(index).integers(0, 256, (6, 7, 3), np.uint8)


def same_examples(split, indices):
  """Returns whether a split of `tiny_fixed` holds these examples, in any order."""
  expected = {image_of(index).tobytes(): index % 3 for index in indices}
  found = {
    image.tobytes(): label
    for image, label in zip(split.images, split.labels.tolist(), strict=True)
  }
  return found == expected


def test_load_reads_a_prepared_data_set(data_dir):
  train = data.load("tiny_fixed", "train", data_dir=data_dir)
  assert train.image_shape == (6, 7, 3)
  assert train.class_names == ("cat", "dog", "owl")
  assert train.images.dtype == np.uint8
  assert train.labels.dtype == np.int32
  assert same_examples(train, range(20))
  test = data.load("tiny_fixed", "test", data_dir=data_dir)
  assert same_examples(test, range(20, 26))


def test_load_does_not_import_tensorflow(data_dir):
  data.load("tiny_fixed", "train", data_dir=data_dir)
  assert "tensorflow" not in sys.modules


def test_load_takes_slices_and_limits(data_dir):
  whole = data.load("tiny_fixed", "train", data_dir=data_dir)
  part = data.load("tiny_fixed", "train[:25%]", data_dir=data_dir)
  np.testing.assert_array_equal(part.images, whole.images[:5])
  few = data.load("tiny_fixed", "train", data_dir=data_dir, limit=3)
  np.testing.assert_array_equal(few.images, whole.images[:3])
  both = data.load("tiny_fixed", "train+test", data_dir=data_dir)
  assert same_examples(both, range(26))


def test_load_finds_the_default_folder(data_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  assert len(data.load("tiny_fixed:1.2.0", "test")) == 6


def test_load_reports_progress(data_dir, monkeypatch):
  monkeypatch.setattr("flowkd_jax.data._load._CHUNK", 8)
  calls = []
  data.load(
    "tiny_fixed",
    "train",
    data_dir=data_dir,
    progress=lambda done, total: calls.append((done, total)),
  )
  assert calls == [(8, 20), (16, 20), (20, 20)]


def test_load_resizes_the_shorter_side_and_cuts_the_centre(data_dir):
  whole = data.load("tiny_fixed", "train", data_dir=data_dir)
  fitted = data.load("tiny_fixed", "train", data_dir=data_dir, image_size=12)
  assert fitted.image_shape == (12, 12, 3)
  # 6 x 7 becomes 12 x 14, of which the columns 1..12 are kept.
  resized = Image.fromarray(whole.images[0]).resize((14, 12), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(fitted.images[0], np.asarray(resized)[:, 1:13])


def test_load_brings_images_of_all_sizes_to_one(data_dir):
  train = data.load("tiny_varied", "train", data_dir=data_dir, image_size=5)
  assert train.images.shape == (20, 5, 5, 3)


def test_load_asks_for_an_image_size_where_images_differ(data_dir):
  with pytest.raises(ValueError, match="images differ in size; expected image"):
    data.load("tiny_varied", "train", data_dir=data_dir)


def test_open_source_knows_the_sizes_without_reading(data_dir, monkeypatch):
  monkeypatch.setattr("flowkd_jax.data._tfds.decode_image", None)
  source = data.open_source(
    "tiny_varied", "train", data_dir=data_dir, image_size=4, limit=11
  )
  assert (source.num_examples, source.num_classes) == (11, 3)
  assert source.image_shape == (4, 4, 3)
  assert source.num_bytes == 11 * 4 * 4 * 3


def test_open_source_says_what_prepares_a_data_set(tmp_path):
  with pytest.raises(data.DatasetNotPreparedError) as caught:
    data.open_source("cifar10:3.0.2", "train", data_dir=tmp_path)
  message = str(caught.value)
  assert f"under {tmp_path / 'cifar10'}" in message
  assert (
    f"tfds build cifar10:3.0.2 --data_dir={tmp_path} "
    "--file_format=array_record" in message
  )
  assert "download_and_prepare()" in message
  assert isinstance(caught.value, FileNotFoundError)


def test_open_source_skips_what_was_prepared_half(data_dir, tmp_path):
  half = tmp_path / "tiny_fixed" / "incomplete.X_1.2.0"
  shutil.copytree(data_dir / "tiny_fixed" / "1.2.0", half)
  with pytest.raises(data.DatasetNotPreparedError, match="no prepared copy"):
    data.open_source("tiny_fixed", "train", data_dir=tmp_path)


def test_open_source_takes_the_newest_version(data_dir, tmp_path):
  for version in ("1.2.0", "1.10.0", "1.9.0"):
    folder = tmp_path / "tiny_fixed" / version
    shutil.copytree(data_dir / "tiny_fixed" / "1.2.0", folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"version": version}))
  source = data.open_source("tiny_fixed", "train", data_dir=tmp_path)
  assert str(source.builder.version) == "1.10.0"
  source = data.open_source("tiny_fixed:1.9.0", "train", data_dir=tmp_path)
  assert str(source.builder.version) == "1.9.0"


def test_open_source_takes_the_only_configuration(data_dir, tmp_path):
  original = data_dir / "tiny_fixed" / "1.2.0"
  shutil.copytree(original, tmp_path / "made" / "large" / "1.2.0")
  assert data.open_source("made", "train", data_dir=tmp_path).num_examples == 20
  shutil.copytree(original, tmp_path / "made" / "small" / "1.2.0")
  with pytest.raises(ValueError, match=r"\(large, small\); name one, as in"):
    data.open_source("made", "train", data_dir=tmp_path)
  named = data.open_source("made/small", "train", data_dir=tmp_path)
  assert named.num_examples == 20


def test_open_source_refuses_the_format_of_tensorflow(data_dir, tmp_path):
  folder = tmp_path / "tiny_fixed" / "1.2.0"
  shutil.copytree(data_dir / "tiny_fixed" / "1.2.0", folder)
  file = folder / "dataset_info.json"
  file.write_text(file.read_text().replace("array_record", "tfrecord"))
  for record in folder.glob("*array_record*"):
    record.rename(folder / record.name.replace("array_record", "tfrecord"))
  with pytest.raises(
    data.DatasetNotPreparedError, match="holds the format tfrecord.*expected"
  ):
    data.open_source("tiny_fixed", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("cifr10", "got 'cifr10'; did you mean cifar10"),
    ("digit", "did you mean digits"),
    ("huggingface:cifar10", "expected DATASET, DATASET/CONFIG or either"),
  ],
)
def test_open_source_refuses_unknown_names(name, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    data.open_source(name, "train", data_dir=tmp_path)


@pytest.mark.parametrize(
  ("name", "split", "message"),
  [
    ("tiny_fixed", "nope", "split of tiny_fixed: Unknown split 'nope'"),
    ("tiny_fixed", "train[", "split of tiny_fixed: Error parsing split"),
    ("tiny_fixed", "train[:0]", r"but 'train\[:0\]' is empty"),
    ("tiny_text", "train", "expected an image and its class label .* got text"),
  ],
)
def test_open_source_refuses_what_is_not_there(name, split, message, data_dir):
  with pytest.raises(ValueError, match=message):
    data.open_source(name, split, data_dir=data_dir)


def test_read_refuses_labels_that_are_not_classes(data_dir, tmp_path):
  folder = tmp_path / "tiny_fixed" / "1.2.0"
  shutil.copytree(data_dir / "tiny_fixed" / "1.2.0", folder)
  (folder / "label.labels.txt").write_text("cat\ndog\n")
  with pytest.raises(ValueError, match=r"expected labels in 0\.\.1, got"):
    data.load("tiny_fixed", "train", data_dir=tmp_path)


@pytest.mark.parametrize(("name", "split"), [(None, "train"), ("digits", None)])
def test_open_source_refuses_names_that_are_no_strings(name, split):
  with pytest.raises(TypeError, match="expected a string, got None"):
    data.open_source(name, split)

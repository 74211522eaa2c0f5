import numpy as np
import pytest

from flowkd_jax import data


def test_parts_follow_one_another_each_at_its_angle():
  split = data.load("digits", "train[:4]@0+test[:3]@90+train[2:4]")
  train, test = data.load("digits", "train"), data.load("digits", "test")
  assert split.split == "train[:4]@0+test[:3]@90+train[2:4]"
  np.testing.assert_array_equal(split.images[:4], train.images[:4])
  turned = np.rot90(test.images[:3], axes=(1, 2))  # counter-clockwise
  np.testing.assert_array_equal(split.images[4:7], turned)
  np.testing.assert_array_equal(split.images[7:], train.images[2:4])
  labels = np.concatenate([train.labels[:4], test.labels[:3], train.labels[2:4]])
  np.testing.assert_array_equal(split.labels, labels)


def test_small_angles_interpolate_and_leave_the_centre():
  upright = data.load("digits", "train[:20]@0", image_size=16).images.astype(float)
  turned = data.load("digits", "train[:20]@15", image_size=16).images.astype(float)
  back = data.load("digits", "train[:20]@-15", image_size=16).images.astype(float)
  difference = np.abs(turned - upright).mean((0, 3))
  assert difference[7:9, 7:9].mean() < difference[2:14, 2:14].mean()
  assert np.abs(turned - back).mean() > 10


def test_rotated_source_reads_in_any_order_and_knows_its_size():
  source = data.open_source("digits", "train[:4]@0+test[:3]@30", limit=6)
  whole = data.load("digits", "train[:4]@0+test[:3]@30")
  assert (source.name, source.num_examples, source.num_classes) == ("digits", 6, 10)
  assert source.num_bytes == 6 * 64
  assert source.image_shape == (8, 8, 1)
  images, labels = source.read(np.array([5, 0, 4]))
  np.testing.assert_array_equal(images, whole.images[[5, 0, 4]])
  np.testing.assert_array_equal(labels, whole.labels[[5, 0, 4]])
  assert len(data.load("digits", "train[:4]@0+test[:3]@30", limit=6)) == 6


def test_data_sets_on_disk_are_rotated_as_they_are_read(data_dir):
  options = {"data_dir": data_dir, "image_size": 6}
  upright = data.load("tiny_fixed", "train[:5]", **options)
  turned = data.load("tiny_fixed", "train[:5]@180", **options)
  np.testing.assert_array_equal(turned.images, upright.images[:, ::-1, ::-1])


@pytest.mark.parametrize(
  ("split", "message"),
  [
    ("train@left", "expected SPLIT@DEGREES for each part, .* got 'train@left' in"),
    ("train@15+", "expected SPLIT@DEGREES for each part, .* got '' in 'train@15+'"),
    ("train@15@30", "expected SPLIT@DEGREES"),
    ("valid@15", r"split of digits: Unknown split 'valid'. .*\['train', 'test'\]"),
  ],
)
def test_impossible_parts_are_refused(split, message):
  with pytest.raises(ValueError, match=message.replace("15+", r"15\+")):
    data.open_source("digits", split)


def test_split_names_are_those_of_the_data_set(data_dir, tmp_path):
  assert data.split_names("digits") == ("train", "test")
  assert data.split_names("tiny_fixed", data_dir=data_dir) == ("train", "test")
  with pytest.raises(data.DatasetNotPreparedError, match="mnist: no prepared copy"):
    data.split_names("mnist", data_dir=tmp_path)

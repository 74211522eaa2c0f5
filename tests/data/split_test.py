import numpy as np
import pytest

from flowkd_jax import data
from flowkd_jax.data._split import Split
from flowkd_jax.data._split import channel_statistics


def make_split(**changes):
  fields = {
    "name": "made",
    "split": "train",
    "images": np.arange(4 * 2 * 3 * 2, dtype=np.uint8).reshape(4, 2, 3, 2),
    "labels": np.array([0, 1, 2, 1], np.int32),
    "class_names": ("a", "b", "c"),
  }
  return Split(**(fields | changes))


def test_split_reports_its_sizes():
  split = make_split()
  assert len(split) == split.num_examples == 4
  assert split.num_classes == 3
  assert split.image_shape == (2, 3, 2)


def test_read_returns_examples_in_the_order_asked_for():
  split = make_split()
  images, labels = split.read(np.array([2, 0, 2]))
  np.testing.assert_array_equal(images, split.images[[2, 0, 2]])
  assert labels.tolist() == [2, 0, 2]


def test_statistics_match_float64_over_all_pixels(monkeypatch):
  monkeypatch.setattr("flowkd_jax.data._split._CHUNK", 3 * 5 * 4 * 3)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (8, 5, 4, 3), np.uint8)
  labels = np.zeros(8, np.int32)
  mean, std = make_split(images=images, labels=labels).statistics()
  pixels = images.astype(np.float64)
  np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_statistics_of_a_sample_are_those_of_the_same_images_every_time(monkeypatch):
  monkeypatch.setattr("flowkd_jax.data._split._CHUNK", 1)
  images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
  split = make_split(images=images, labels=np.zeros(40, np.int32))
  read, seen = type(split).read, []
  monkeypatch.setattr(
    type(split), "read", lambda self, rows: seen.extend(rows) or read(self, rows)
  )
  done = []
  found = channel_statistics(split, examples=9, progress=lambda *now: done.append(now))
  assert done[-1] == (9, 9)
  assert len(set(seen)) == 9
  chosen = images[sorted(seen)]
  np.testing.assert_allclose(found, [[chosen.mean()], [chosen.std()]])
  # The sample is part of what a run gives; it has to stay.
  assert sorted(seen) == [0, 1, 2, 9, 11, 17, 20, 21, 38]
  assert channel_statistics(split, examples=40) == split.statistics()


def test_statistics_give_a_constant_channel_a_deviation_of_one():
  images = np.full((4, 2, 2, 1), 7, np.uint8)
  assert make_split(images=images).statistics() == ((7.0,), (1.0,))


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    (
      {"images": np.zeros((4, 2, 2, 1), np.float32)},
      TypeError,
      "expected uint8 images in 0..255, got dtype float32",
    ),
    (
      {"images": np.zeros((4, 2, 2), np.uint8)},
      ValueError,
      r"expected images of shape .*, got \(4, 2, 2\)",
    ),
    (
      {"images": np.zeros((0, 2, 2, 1), np.uint8)},
      ValueError,
      "made train: expected at least one example",
    ),
    (
      {"labels": np.zeros(3, np.int32)},
      ValueError,
      r"one label per image, that is shape \(4,\), got \(3,\)",
    ),
    (
      {"labels": np.zeros(4, np.int64)},
      TypeError,
      "expected int32 labels, got dtype int64",
    ),
    (
      {"labels": np.array([0, 1, 2, 3], np.int32)},
      ValueError,
      r"expected labels in 0\.\.2, got labels in 0\.\.3",
    ),
    (
      {"labels": np.array([0, 1, 2, -1], np.int32)},
      ValueError,
      r"got labels in -1\.\.2 \(first wrong at example 3\)",
    ),
    ({"labels": [0, 1, 2, 0]}, TypeError, "labels as a NumPy array, got a list"),
    ({"images": [[[[0]]]] * 4}, TypeError, "images as a NumPy array, got a list"),
    ({"class_names": ()}, ValueError, "a name for each class, got no class_names"),
    (
      {"images": np.zeros((4, 0, 3, 1), np.uint8)},
      ValueError,
      r"images with pixels, got shape \(4, 0, 3, 1\)",
    ),
  ],
)
def test_split_refuses_malformed_examples(changes, error, message):
  with pytest.raises(error, match=message):
    make_split(**changes)


def test_normalization_knows_the_authors_values():
  mean, std = data.normalization("cifar10:3.0.2")
  assert mean == (125.3, 123.0, 113.9)
  assert std == (63.0, 62.1, 66.7)


def test_normalization_computes_the_values_of_other_data_sets():
  split = make_split()
  assert data.normalization("made", split) == split.statistics()


def test_normalization_asks_for_training_images():
  with pytest.raises(ValueError, match="got 'made' alone; pass training="):
    data.normalization("made")

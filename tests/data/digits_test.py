import numpy as np
import pytest
import sklearn.datasets

from flowkd_jax import data


def test_digits_hold_every_example_once():
  train, test = data.load("digits", "train"), data.load("digits", "test")
  assert (len(train), len(test)) == (1000, 797)
  values, labels = sklearn.datasets.load_digits(return_X_y=True)
  expected = np.rint(values * 255 / 16).astype(np.uint8)
  loaded = np.concatenate([train.images, test.images]).reshape(-1, 64)
  loaded = np.column_stack([loaded, np.r_[train.labels, test.labels]])
  expected = np.column_stack([expected, labels])
  np.testing.assert_array_equal(
    loaded[np.lexsort(loaded.T)], expected[np.lexsort(expected.T)]
  )


def test_digits_share_out_every_class_in_proportion():
  train, test = data.load("digits", "train"), data.load("digits", "test")
  counts = np.bincount(train.labels), np.bincount(test.labels)
  share = counts[0] / (counts[0] + counts[1])
  np.testing.assert_allclose(share, 1000 / 1797, atol=1 / counts[1].min())


def test_digits_are_split_the_same_everywhere():
  train = data.load("digits", "train")
  assert train.image_shape == (8, 8, 1)
  assert train.class_names == tuple("0123456789")
  assert train.labels[:12].tolist() == [0, 1, 2, 3, 5, 8, 9, 1, 3, 6, 7, 9]
  assert int(train.images.sum(dtype=np.int64)) == 4969735


def test_load_limits_and_resizes():
  split = data.load("digits", "test", limit=5, image_size=12)
  assert split.images.shape == (5, 12, 12, 1)
  whole = data.load("digits", "test")
  np.testing.assert_array_equal(split.labels, whole.labels[:5])


def test_load_takes_parts_of_the_digits():
  whole, test = data.load("digits", "train"), data.load("digits", "test")
  part = data.load("digits", "train[90%:]+test[:5]")
  assert len(part) == 105
  np.testing.assert_array_equal(part.images[:100], whole.images[900:])
  np.testing.assert_array_equal(part.labels[100:], test.labels[:5])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"split": "validation"}, r"Unknown split 'validation'.*\['train', 'test'\]"),
    ({"split": "train["}, "split of digits: Error parsing split"),
    ({"split": "train[:0]"}, "expected at least one example, got none"),
    ({"limit": 0}, "limit: expected a number above 0, got 0"),
    ({"image_size": -1}, "image_size: expected a number above 0, got -1"),
  ],
)
def test_load_refuses_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    data.load("digits", **({"split": "train"} | arguments))


def test_normalization_of_digits_is_that_of_the_training_images():
  computed = data.load("digits", "train").statistics()
  np.testing.assert_allclose(data.normalization("digits"), computed, atol=5e-3)

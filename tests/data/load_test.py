"""Opening and loading a split by name."""

import numpy as np
import pytest

from flowkd_jax import data


def test_opened_and_loaded_digits_are_the_same():
  source = data.open_source("digits", "train", limit=3)
  split = data.load("digits", "train", limit=3)
  assert source.num_examples == len(split.images) == 3
  assert source.image_shape == split.images.shape[1:] == (8, 8, 1)
  assert split.images.dtype == np.uint8
  assert source.class_names == split.class_names


def test_loaded_images_are_brought_to_a_size():
  split = data.load("digits", "test", limit=2, image_size=12)
  assert split.images.shape == (2, 12, 12, 1)


def test_loaded_parts_are_rotated():
  (plain,), (turned,) = (
    data.load("digits", part, limit=1).images for part in ("train", "train@90")
  )
  np.testing.assert_array_equal(turned, np.rot90(plain))


def test_names_of_the_splits_of_the_digits_are_known():
  assert data.split_names("digits") == ("train", "test")


@pytest.mark.parametrize(
  ("error", "options", "match"),
  [
    (ValueError, {"limit": 0}, "limit: expected"),
    (ValueError, {"image_size": -1}, "image_size: expected"),
    (ValueError, {"image_key": "image"}, "image_key: expected none for 'digits'"),
    (ValueError, {"label_key": "label"}, "label_key: expected none for 'digits'"),
    (TypeError, {"split": 3}, "split: expected a string, got 3"),
  ],
)
def test_arguments_that_cannot_be_right_are_refused(error, options, match):
  given = {"name": "digits", "split": "train", **options}
  with pytest.raises(error, match=match):
    data.open_source(**given)

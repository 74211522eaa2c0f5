"""Resizing and rotation on the host."""

import numpy as np
import pytest

from flowkd_jax.data import _resize


@pytest.mark.parametrize("channels", [1, 3])
def test_fit_image_cuts_the_centre_of_the_longer_side(channels):
  image = np.zeros((4, 12, channels), np.uint8)
  image[:, 4:8] = 200
  fitted = _resize.fit_image(image, 4)
  np.testing.assert_array_equal(fitted, np.full((4, 4, channels), 200))


def test_fit_image_keeps_an_image_of_that_size():
  image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
  assert _resize.fit_image(image, 4) is image
  assert _resize.fit_image(image, 7).shape == (7, 7, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_rotate_image_turns_counter_clockwise(channels):
  image = np.random.default_rng(0).integers(0, 256, (6, 6, channels), np.uint8)
  np.testing.assert_array_equal(_resize.rotate_image(image, 90), np.rot90(image))
  assert _resize.rotate_image(image, 0) is image

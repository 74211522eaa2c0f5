"""Means and standard deviations by the name of a data set."""

import numpy as np
import pytest

from flowkd_jax import data


def test_normalization_of_a_known_set_ignores_its_version():
  assert data.normalization("cifar10:3.0.2") == data.normalization("cifar10")
  mean, std = data.normalization("digits")
  images = data.load("digits", "train").images
  np.testing.assert_allclose(mean, images.mean(), rtol=0.05)
  np.testing.assert_allclose(std, images.std(), rtol=0.05)


def test_normalization_of_an_unknown_set_is_that_of_its_images():
  split = data.load("digits", "train", limit=50)
  mean, std = data.normalization("mine", split)
  np.testing.assert_allclose(mean, [split.images.mean()], rtol=1e-4)
  np.testing.assert_allclose(std, [split.images.std()], rtol=1e-4)


def test_normalization_of_an_unknown_set_needs_images():
  with pytest.raises(ValueError, match="normalization: expected one of .*'mine'"):
    data.normalization("mine")

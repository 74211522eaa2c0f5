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


def test_normalization_reads_a_few_thousand_images_at_most():
  images = np.arange(4200, dtype=np.uint16).astype(np.uint8).reshape(4200, 1, 1, 1)
  split = data.Split("mine", "train", images, np.zeros(4200, np.int32), ("a",))
  done = []
  sampled = data.normalization("mine", split, progress=lambda *now: done.append(now))
  assert done[-1] == (4096, 4096)
  np.testing.assert_allclose(sampled, split.statistics(), rtol=0.01)
  assert sampled != split.statistics()
  assert data.normalization("mine", split, examples=None) == split.statistics()


def test_known_normalization_is_that_of_known_sets_only():
  assert data.known_normalization("digits:1.0") == data.normalization("digits")
  assert data.known_normalization("mine") is None

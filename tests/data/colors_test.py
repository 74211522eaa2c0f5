"""Random colours of images."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flowkd_jax.data import _colors


def _image(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)


def test_to_gray_is_that_of_pillow():
  expected = np.asarray(Image.fromarray(_image()).convert("L"), np.float32)
  gray = _colors.to_gray(jnp.asarray(_image(), jnp.float32))
  for channel in range(3):
    np.testing.assert_allclose(gray[..., channel], expected, atol=0.6)


@pytest.mark.parametrize("turn", [-0.3, 0.0, 0.11, 0.5])
def test_turn_hue_turns_the_hue_of_hsv(turn):
  image = _image() / np.float32(255)
  image[0, 0] = 0.25  # grey stays as it is
  turned = _colors.turn_hue(jnp.asarray(image), turn)
  for pixel, found in zip(image.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
    hue, saturation, value = colorsys.rgb_to_hsv(*map(float, pixel))
    expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_jitter_colors_stays_within_pixels_and_depends_on_the_key():
  image = jnp.asarray(_image(), jnp.float32)
  change = jax.jit(jax.vmap(_colors.jitter_colors, in_axes=(None, 0, None)))
  changed = np.asarray(change(image, jax.random.split(jax.random.key(0), 32), 0.5))
  assert changed.min() >= 0
  assert changed.max() <= 255.001
  assert len(np.unique(changed[:, 0, 0, 0])) > 20
  same = change(image, jax.random.split(jax.random.key(0), 32), 0.0)
  np.testing.assert_allclose(same, np.broadcast_to(image, same.shape), atol=1e-3)


def test_jitter_colors_of_a_black_and_of_a_grey_image_is_grey():
  change = jax.jit(_colors.jitter_colors)
  for level in (0.0, 100.0):
    changed = change(jnp.full((2, 2, 3), level), jax.random.key(1), 0.3)
    np.testing.assert_allclose(changed - changed[..., :1], 0, atol=1e-3)
    assert abs(float(changed[0, 0, 0]) - level) <= 0.3 * level + 1e-3

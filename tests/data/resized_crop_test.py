"""Random windows that are resized to the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flowkd_jax.data import _resized_crop

draw = jax.jit(
  jax.vmap(_resized_crop.draw_window, in_axes=(0, None, None, None)),
  static_argnums=(1, 2, 3),
)
crop = jax.jit(_resized_crop.resized_crop, static_argnums=2)


def _windows(height, width, min_area, number=400):
  keys = jax.random.split(jax.random.key(0), number)
  return np.stack(draw(keys, height, width, min_area), 1)


@pytest.mark.parametrize(
  ("height", "width", "min_area"), [(64, 64, 0.7), (40, 30, 0.1), (3, 3, 1e-6)]
)
def test_windows_lie_within_the_image(height, width, min_area):
  top, left, heights, widths = _windows(height, width, min_area).T
  assert (heights >= 1).all()
  assert (widths >= 1).all()
  assert (top >= 0).all()
  assert (left >= 0).all()
  assert (top + heights <= height).all()
  assert (left + widths <= width).all()


def test_windows_have_areas_and_ratios_within_their_limits():
  _, _, heights, widths = _windows(64, 64, 0.3).T
  areas = heights * widths / 64**2
  # Sides are rounded to whole pixels.
  assert areas.min() > 0.28
  assert areas.max() <= 1
  assert 0.55 < areas.mean() < 0.65
  ratios = widths / heights
  assert ratios.min() > 0.72
  assert ratios.max() < 1.38


@pytest.mark.slow
def test_resized_crop_is_that_of_pillow():
  image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
  for seed in range(8):
    key = jax.random.key(seed)
    top, left, height, width = (
      int(number) for number in _resized_crop.draw_window(key, 24, 24, 0.5)
    )
    box = (left, top, left + width, top + height)
    window = Image.fromarray(image).crop(box)
    expected = np.asarray(window.resize((24, 24), Image.Resampling.BILINEAR))
    found = crop(jnp.asarray(image, jnp.float32), key, 0.5)
    np.testing.assert_allclose(found, expected.astype(np.float32), atol=1.1)

"""Decoding of image files: every mode is converted right, or refused by name."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from flowkd_jax.data._decode import decode_image

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (9, 8), np.uint8)
ALPHA = RNG.integers(0, 256, (9, 8), np.uint8)
RGB = RNG.integers(0, 256, (9, 8, 3), np.uint8)
SIXTEEN = RNG.integers(0, 2**16, (9, 8)).astype(np.uint16)
PALETTE = Image.fromarray(RGB).quantize(32)
FLAT = Image.fromarray(np.full((16, 16, 3), (200, 30, 60), np.uint8))


def encoded(image, form="PNG", **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


def rgb_of(image):
  return np.asarray(image.convert("RGB"))


def luminance(rgb):
  weights = np.array([0.299, 0.587, 0.114])
  return (rgb.astype(float) * weights.reshape(1, 1, 3)).sum(axis=-1)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_decode_image_scales_sixteen_bits(form, channels):
  values = SIXTEEN.astype(np.int32) if form == "PPM" else SIXTEEN
  pixels = decode_image(encoded(Image.fromarray(values), form), channels)
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels[..., 0], SIXTEEN >> 8)
  if channels > 2:
    np.testing.assert_array_equal(pixels[..., 2], SIXTEEN >> 8)
  if channels in (2, 4):
    assert (pixels[..., -1] == 255).all()


def test_decode_image_takes_the_colors_of_a_palette():
  expected = rgb_of(PALETTE)
  np.testing.assert_array_equal(decode_image(encoded(PALETTE), 3), expected)
  gray = decode_image(encoded(PALETTE), 1)[..., 0]
  np.testing.assert_allclose(gray, luminance(expected), atol=1)


@pytest.mark.parametrize("transparency", [3, bytes(range(32))])
def test_decode_image_drops_the_transparency_of_a_palette(transparency):
  file = encoded(PALETTE, transparency=transparency)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    np.testing.assert_array_equal(decode_image(file, 3), rgb_of(PALETTE))
    alpha = decode_image(file, 4)[..., 3]
  assert alpha.min() < 255


def test_decode_image_drops_alpha_unless_it_is_declared():
  gray = encoded(Image.fromarray(np.stack([GRAY, ALPHA], -1), "LA"))
  np.testing.assert_array_equal(decode_image(gray, 1)[..., 0], GRAY)
  np.testing.assert_array_equal(decode_image(gray, 2)[..., 1], ALPHA)
  np.testing.assert_array_equal(decode_image(gray, 3)[..., 1], GRAY)
  color = encoded(Image.fromarray(np.concatenate([RGB, ALPHA[..., None]], -1)))
  np.testing.assert_array_equal(decode_image(color, 3), RGB)
  np.testing.assert_array_equal(decode_image(color, 4)[..., 3], ALPHA)


@pytest.mark.parametrize(
  ("mode", "form", "tolerance"),
  [("CMYK", "TIFF", 0), ("CMYK", "JPEG", 3), ("YCbCr", "TIFF", 3), ("RGB", "GIF", 8)],
)
def test_decode_image_converts_color_spaces(mode, form, tolerance):
  pixels = decode_image(encoded(FLAT.convert(mode), form), 3).astype(int)
  np.testing.assert_allclose(pixels, rgb_of(FLAT), atol=tolerance)


@pytest.mark.parametrize("channels", [1, 3])
def test_decode_image_converts_cielab(channels):
  file = encoded(Image.new("LAB", (8, 9), (128, 128, 128)), "TIFF")
  pixels = decode_image(file, channels)
  assert pixels.shape == (9, 8, channels)


def test_decode_image_reads_black_and_white():
  image = Image.fromarray(GRAY > 99)
  expected = np.where(GRAY > 99, 255, 0)
  np.testing.assert_array_equal(decode_image(encoded(image), 1)[..., 0], expected)
  np.testing.assert_array_equal(decode_image(encoded(image), 3)[..., 2], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
  ("image", "form", "options", "match"),
  [
    (Image.fromarray(GRAY.astype(np.int32)), "TIFF", {}, "TIFF of mode I, whose"),
    (Image.fromarray(GRAY / np.float32(255)), "TIFF", {}, "TIFF of mode F, whose"),
    (Image.fromarray(SIXTEEN), "TIFF", {"tiffinfo": {262: 0}}, "TIFF of mode I;16"),
  ],
)
def test_decode_image_refuses_values_of_unknown_range(
  image, form, options, match, channels
):
  with pytest.raises(ValueError, match=match):
    decode_image(encoded(image, form, **options), channels)


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_image_refuses_animations(form, channels):
  frames = {"save_all": True, "append_images": [Image.fromarray(RGB[::-1])]}
  with pytest.raises(ValueError, match=f"one picture in a file, got {form} with 2"):
    decode_image(encoded(Image.fromarray(RGB), form, **frames), channels)


def test_decode_image_takes_the_first_picture_of_a_camera():
  frames = {"save_all": True, "append_images": [FLAT.resize((4, 4))]}
  assert decode_image(encoded(FLAT, "MPO", **frames), 3).shape == (16, 16, 3)

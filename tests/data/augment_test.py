import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import data

_OPTIONS = ("flip", "padding", "min_area", "color_jitter", "grayscale")
augment = jax.jit(data.augment, static_argnames=_OPTIONS)


def images_and_keys(batch=64, epoch=0, size=6):
  rng = np.random.default_rng(0)
  # No zero pixels, so that the border of a crop can be told from the image.
  images = rng.integers(1, 256, (batch, size, size, 3), np.uint8)
  index = jnp.arange(batch, dtype=jnp.int32)
  keys = data.example_keys(0, jnp.full(batch, epoch, jnp.int32), index)
  return jnp.asarray(images), keys


def possible_crops(image, padding):
  padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  height, width = image.shape[:2]
  return [
    padded[top : top + height, left : left + width]
    for top in range(2 * padding + 1)
    for left in range(2 * padding + 1)
  ]


def position(candidates, image):
  return [np.array_equal(candidate, image) for candidate in candidates].index(True)


def test_augment_without_options_changes_nothing():
  images, keys = images_and_keys()
  same = augment(images, keys, flip=False, padding=0)
  np.testing.assert_array_equal(same, images)


@pytest.mark.slow
def test_augment_flips_about_half_of_the_rows():
  images, keys = images_and_keys(batch=256)
  flipped = np.asarray(augment(images, keys, flip=True, padding=0))
  mirrored = np.asarray(images)[:, :, ::-1]
  is_mirrored = (flipped == mirrored).all((1, 2, 3))
  is_same = (flipped == images).all((1, 2, 3))
  assert (is_mirrored ^ is_same).all()
  assert 0.4 < is_mirrored.mean() < 0.6


@pytest.mark.slow
def test_augment_crops_every_window_of_the_zero_padded_image():
  images, keys = images_and_keys(batch=256)
  cropped = np.asarray(augment(images, keys, flip=False, padding=1))
  windows = [
    position(possible_crops(image, 1), crop)
    for image, crop in zip(np.asarray(images), cropped, strict=True)
  ]
  counts = np.bincount(windows, minlength=9)
  # 256 / 9 = 28 expected, with a standard deviation of 5.
  assert counts.min() > 8
  assert counts.max() < 50


@pytest.mark.slow
def test_augment_combines_crop_and_flip():
  images, keys = images_and_keys(batch=32)
  result = np.asarray(augment(images, keys, flip=True, padding=2))
  for image, crop in zip(np.asarray(images), result, strict=True):
    windows = possible_crops(image, 2)
    position(windows + [window[:, ::-1] for window in windows], crop)


@pytest.mark.slow
def test_augment_depends_on_the_example_and_not_on_the_batch():
  images, keys = images_and_keys(batch=16)
  whole = jax.jit(lambda i, k: data.augment(i, k, flip=True, padding=2))(images, keys)
  order = np.array([7, 3, 3, 12])
  part = augment(images[order], keys[order], flip=True, padding=2)
  np.testing.assert_array_equal(part, whole[order])


@pytest.mark.slow
def test_augment_changes_windows_and_colors_row_by_row():
  images, keys = images_and_keys(batch=32)
  options = {"flip": True, "padding": 1, "min_area": 0.5, "color_jitter": 0.3}
  whole = np.asarray(augment(images, keys, **options, grayscale=0.5))
  assert whole.dtype == np.uint8
  gray = (whole == whole[..., :1]).all((1, 2, 3))
  assert 6 < gray.sum() < 26
  assert not any((whole == plain).all() for plain in np.asarray(images))
  order = np.array([7, 3, 3, 12])
  part = augment(images[order], keys[order], **options, grayscale=0.5)
  np.testing.assert_allclose(part, whole[order].astype(int), atol=1)


@pytest.mark.slow
def test_augment_refuses_colors_of_images_without_three_channels():
  images, keys = images_and_keys(batch=2)
  options = {"flip": False, "padding": 0}
  for changes in ({"color_jitter": 0.1}, {"grayscale": 1.0}):
    with pytest.raises(ValueError, match="expected images with 3 channels.*, got 1"):
      data.augment(images[..., :1], keys, **options, **changes)
  assert augment(images, keys, **options, min_area=0.5).dtype == np.uint8


def test_example_keys_differ_by_seed_epoch_and_index():
  epoch = jnp.array([0, 0, 1, 1], jnp.int32)
  index = jnp.array([0, 1, 0, 1], jnp.int32)
  keys = [jax.random.key_data(data.example_keys(s, epoch, index)) for s in (0, 1)]
  assert len(np.unique(np.concatenate(keys), axis=0)) == 8


def test_normalize_matches_numpy():
  images, _ = images_and_keys(batch=3)
  mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
  expected = (np.asarray(images, np.float64) - mean) / std
  result = data.normalize(images, mean, std)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, expected, atol=1e-6)


def test_normalize_rounds_once_to_the_wanted_dtype():
  images, _ = images_and_keys(batch=3)
  single = data.normalize(images, (120.0,) * 3, (60.0,) * 3)
  half = data.normalize(images, (120.0,) * 3, (60.0,) * 3, jnp.bfloat16)
  np.testing.assert_array_equal(half, single.astype(jnp.bfloat16))


def test_normalize_refuses_the_wrong_number_of_channels():
  images, _ = images_and_keys(batch=3)
  with pytest.raises(ValueError, match=r"expected 3 numbers .*, got 1 and 1"):
    data.normalize(images, (1.0,), (1.0,))


def test_normalize_refuses_a_deviation_of_zero():
  images, _ = images_and_keys(batch=3)
  with pytest.raises(ValueError, match="std: expected numbers above 0"):
    data.normalize(images, (1.0,) * 3, (1.0, 0.0, 1.0))


def test_augmentation_refuses_negative_padding():
  with pytest.raises(ValueError, match="padding: expected 0 .* got -1"):
    data.Augmentation(padding=-1)
  with pytest.raises(TypeError, match="padding: expected a whole number.* got nan"):
    data.Augmentation(padding=float("nan"))


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"min_area": 0.0}, r"min_area: expected a number in \(0, 1\], got 0.0"),
    ({"min_area": 1.5}, r"min_area: expected a number in \(0, 1\], got 1.5"),
    ({"color_jitter": 0.6}, r"color_jitter: expected a number in \[0, 0.5\], got 0.6"),
    ({"grayscale": -0.1}, r"grayscale: expected a number in \[0, 1\], got -0.1"),
    ({"grayscale": float("nan")}, "grayscale: expected a finite number, got nan"),
  ],
)
def test_augmentation_refuses_numbers_out_of_range(options, match):
  with pytest.raises(ValueError, match=match):
    data.Augmentation(**options)


def test_records_have_later_options_only_if_they_do_something():
  plain = data.Augmentation(flip=True, padding=1)
  assert plain.recorded() == {"flip": True, "padding": 1}
  colored = data.Augmentation(grayscale=0.1)
  assert colored.recorded() == {"flip": False, "padding": 0, "grayscale": 0.1}

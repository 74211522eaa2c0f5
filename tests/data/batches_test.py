"""The part of batches that does not depend on where the images lie."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.data import _augment
from flowkd_jax.data import _batches
from flowkd_jax.data._split import Split

IMAGES = np.arange(5 * 2 * 2 * 1, dtype=np.uint8).reshape(5, 2, 2, 1)
LABELS = np.array([0, 1, 1, 0, 1], np.int32)
SPLIT = Split("toy", "train", IMAGES, LABELS, ("no", "yes"))


def _planned(**changes):
  options = {"batch_size": 2, "seed": 3, "mean": (10.0,), "std": (4.0,), **changes}
  return _batches.PlannedBatches(SPLIT, **options)


def _batch():
  return {
    "index": jnp.arange(5, dtype=jnp.int32),
    "epoch": jnp.full(5, 7, jnp.int32),
    "mask": np.array([1, 1, 1, 1, 0], bool),
  }


def test_sizes_are_those_of_source_and_plan():
  batches = _planned()
  assert (batches.num_examples, batches.num_classes) == (5, 2)
  assert batches.image_shape == (2, 2, 1)
  assert batches.steps_per_epoch == 3
  assert _planned(drop_last=True).steps_per_epoch == 2
  seed = batches.resident["seed"]
  assert (seed, seed.dtype) == (3, np.uint32)


def test_prepare_rows_normalises_in_the_dtype_of_the_batches():
  batches = _planned(dtype=jnp.bfloat16)
  rows = batches.prepare_rows(IMAGES, jnp.asarray(LABELS), {}, _batch())
  expected = ((IMAGES.astype(np.float32) - 10) / 4).astype(jnp.bfloat16)
  np.testing.assert_array_equal(rows["image"], expected)
  assert rows["image"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(rows["label"], LABELS)
  np.testing.assert_array_equal(rows["mask"], _batch()["mask"])


@pytest.mark.slow
def test_prepare_rows_augments_by_seed_epoch_and_index():
  batches = _planned(augmentation=_augment.Augmentation(flip=True, padding=1))
  batch = _batch()
  rows = batches.prepare_rows(IMAGES, jnp.asarray(LABELS), batches.resident, batch)
  keys = _augment.example_keys(jnp.uint32(3), batch["epoch"], batch["index"])
  expected = _augment.augment(IMAGES, keys, flip=True, padding=1)
  np.testing.assert_allclose(rows["image"], (np.float32(expected) - 10) / 4, rtol=1e-6)
  assert (np.asarray(expected) != IMAGES).any()


@pytest.mark.parametrize(
  ("changes", "error", "match"),
  [
    ({"dtype": jnp.int32}, TypeError, "dtype: expected a floating-point dtype"),
    ({"mean": (1.0, 2.0)}, ValueError, "mean"),
    ({"std": (0.0,)}, ValueError, "std"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"seed": -1}, ValueError, "seed"),
  ],
)
def test_impossible_options_are_refused_at_once(changes, error, match):
  with pytest.raises(error, match=match):
    _planned(**changes)

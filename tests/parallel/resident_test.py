"""Data on the devices: shared, freed, and split where one device cannot hold it."""

import gc
import weakref

import jax
import numpy as np
import pytest

from flowkd_jax import data
from flowkd_jax import parallel
from flowkd_jax.parallel import _resident

DEVICES = jax.local_devices()


@pytest.fixture
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (1003, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def small_devices(monkeypatch):
  """Devices with memory for 1 and a half copies of the images."""
  size = 3 * 1003 * 8 * 8 * 3 // 2
  monkeypatch.setattr(_resident, "device_bytes", lambda devices=None: size)


@pytest.mark.slow
@pytest.mark.eight_devices
def test_users_at_the_same_time_share_one_copy_that_is_freed_with_the_last(images):
  one = parallel.share({"images": images, "seed": np.uint32(3)}, DEVICES)
  other = parallel.share({"images": images}, DEVICES)
  assert other.arrays["images"] is one.arrays["images"]
  assert one.bytes_each == images.nbytes + 4
  fewer = parallel.share({"images": images}, DEVICES[:2])
  assert fewer.arrays["images"] is not one.arrays["images"]
  on_devices = weakref.ref(one.arrays["images"])
  del one
  assert on_devices() is not None
  del other
  gc.collect()
  assert on_devices() is None


@pytest.mark.parametrize(
  "change",
  [
    lambda x: x.__setitem__((17, 0, 0, 0), x[17, 0, 0, 0] ^ 1),
    lambda x: x.__setitem__((-1, -1, -1, -1), x[-1, -1, -1, -1] ^ 1),
    lambda x: x.__setitem__(slice(None), x[::-1].copy()),
  ],
)
def test_array_that_changed_is_put_there_anew(change, images):
  before = parallel.share({"images": images}, DEVICES)
  change(images)
  after = parallel.share({"images": images}, DEVICES)
  np.testing.assert_array_equal(after.arrays["images"], images)
  assert after.arrays["images"] is not before.arrays["images"]


@pytest.mark.eight_devices
@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_large_array_is_split_and_rows_are_those_of_the_whole(
  mode, images, small_devices
):
  labels = np.arange(1003, dtype=np.int32)
  arrays = {"images": images, "labels": labels, "seed": np.uint32(3)}
  shared = parallel.share(arrays, DEVICES, rows_of=("images", "labels"), mode=mode)
  held = shared.arrays["images"].addressable_shards
  assert {shard.data.size for shard in held} == {126 * 8 * 8 * 3}
  assert shared.bytes_each == 126 * (8 * 8 * 3 + 4) + 4

  def step(resident, index):
    opened = shared.opened(resident)
    return [parallel.take_rows(opened[x], index) for x in ("images", "labels")]

  # Rows of the last device, whose part is padded, too; each is asked for twice.
  index = np.tile(np.arange(1002, 2, -20, dtype=np.int32)[:48], 2).reshape(8, 3, 4)
  mapped = parallel.map_step(step, (shared.in_axes, 0), mode=mode)
  found = mapped(shared.arrays, index)
  np.testing.assert_array_equal(found[0], images[index])
  np.testing.assert_array_equal(found[1], labels[index])


def test_arrays_that_fit_or_may_not_be_split_stay_whole(images, small_devices):
  whole = parallel.share({"images": images}, DEVICES)
  assert whole.arrays["images"].shape == images.shape
  some = parallel.share({"images": images[:400]}, DEVICES, rows_of=("images",))
  assert some.in_axes is None
  alone = parallel.share({"images": images}, DEVICES[:1], rows_of=("images",))
  assert alone.in_axes is None


@pytest.mark.slow
@pytest.mark.eight_devices
@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_batches_of_a_split_data_set_are_those_of_the_whole(
  mode, images, small_devices
):
  split = data.Split(
    name="noise",
    split="train",
    images=images,
    labels=np.arange(1003, dtype=np.int32) % 3,
    class_names=("a", "b", "c"),
  )
  batches = data.training_batches(
    split,
    batch_size=16,
    seed=0,
    mean=(128,) * 3,
    std=(64,) * 3,
    augmentation=data.Augmentation(flip=True, padding=1),
  )
  rows = next(batches.epoch(0))
  expected = jax.jit(batches.prepare)(dict(batches.resident), rows)
  shared = parallel.share(
    batches.resident, DEVICES, rows_of=batches.row_arrays, mode=mode
  )
  mapped = parallel.map_step(
    lambda resident, rows: batches.prepare(shared.opened(resident), rows),
    (shared.in_axes, 0),
    mode=mode,
  )
  found = mapped(shared.arrays, parallel.split_rows(rows, 8))
  for name, array in expected.items():
    np.testing.assert_array_equal(
      np.reshape(found[name], array.shape), array, err_msg=name
    )


@pytest.mark.eight_devices
def test_device_bytes_are_those_that_a_device_tells():
  class Card:
    platform = "gpu"

    def memory_stats(self):
      return {"bytes_limit": 123}

  assert parallel.device_bytes([Card()]) == 123
  assert parallel.device_bytes() * 8 <= parallel.device_bytes(DEVICES[:1]) + 8

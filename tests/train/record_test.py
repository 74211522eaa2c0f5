"""The record of data, batches and key of a run."""

import dataclasses

import jax
import pytest

from flowkd_jax import data
from flowkd_jax.train import _record


def test_record_tells_batch_sizes_apart_and_not_where_images_are(batches, split, key):
  now = _record.describe_run(batches, key)
  small = dataclasses.replace(batches, batch_size=15)
  assert small.steps_per_epoch == batches.steps_per_epoch
  assert _record.describe_run(small, key)["batch_size"] == 15
  streamed = data.StreamBatches(
    split,
    batch_size=16,
    seed=0,
    mean=(128,),
    std=(64,),
    augmentation=data.Augmentation(flip=True, padding=1),
  )
  assert _record.describe_run(streamed, key) == now


def test_record_of_other_batches_is_of_their_first_rows(batches, key):
  class Own:
    def __getattr__(self, name):
      return getattr(batches, name)

  class Shifted(Own):
    def epoch(self, epoch, start_step=0):
      return batches.epoch(epoch + 1, start_step)

  one, same, other = (_record.describe_run(b, key) for b in (Own(), Own(), Shifted()))
  assert one == same
  assert one["first batch"] != other["first batch"]


def test_record_that_was_written_is_the_same_and_another_is_refused(
  batches, key, tmp_path
):
  now = _record.describe_run(batches, key)
  _record.check_record(tmp_path, now)
  _record.write_record(tmp_path, now)
  _record.check_record(tmp_path, now)
  other = _record.describe_run(batches, jax.random.key(99))
  with pytest.raises(ValueError, match=f"key: {now['key']} before, {other['key']} now"):
    _record.check_record(tmp_path, other)


def test_record_without_all_examples_is_compared_by_the_rest(batches, key, tmp_path):
  now = _record.describe_run(batches, key)
  _record.write_record(tmp_path, {**now, "hash of all examples": None})
  _record.check_record(tmp_path, now)
  with pytest.raises(ValueError, match="batch_size: 16 before, 15 now"):
    _record.check_record(tmp_path, {**now, "batch_size": 15})

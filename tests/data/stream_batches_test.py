import itertools
import threading
import time

import jax
import numpy as np
import pytest

from flowkd_jax import data

OPTIONS = {
  "batch_size": 8,
  "seed": 5,
  "mean": (120.0,) * 3,
  "std": (60.0,) * 3,
  "augmentation": data.Augmentation(flip=True, padding=2),
}


@pytest.fixture
def source(data_dir):
  return data.open_source("tiny_fixed", "train", data_dir=data_dir)


@pytest.fixture
def split(data_dir):
  return data.load("tiny_fixed", "train", data_dir=data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("drop_last", [False, True])
def test_stream_yields_the_batches_of_memory(source, split, drop_last):
  memory = data.MemoryBatches(split, drop_last=drop_last, **OPTIONS)
  stream = data.StreamBatches(source, drop_last=drop_last, threads=3, **OPTIONS)
  assert stream.steps_per_epoch == memory.steps_per_epoch
  prepare = jax.jit(memory.prepare), jax.jit(stream.prepare)
  for epoch in range(2):
    steps = zip(memory.epoch(epoch), stream.epoch(epoch), strict=True)
    for expected, found in steps:
      for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
      jax.tree.map(
        np.testing.assert_array_equal,
        prepare[1](stream.resident, found),
        prepare[0](memory.resident, expected),
      )


def test_stream_adds_images_and_labels(source, split):
  batch = next(data.StreamBatches(source, **OPTIONS).epoch(0))
  assert batch["image"].dtype == np.uint8
  assert batch["label"].dtype == np.int32
  np.testing.assert_array_equal(batch["image"], split.images[batch["index"]])
  np.testing.assert_array_equal(batch["label"], split.labels[batch["index"]])


def test_stream_resumes_without_reading_what_was_done(split):
  reads = []

  class Counting:
    def __getattr__(self, name):
      return getattr(split, name)

    def read(self, indices):
      reads.append(list(indices))
      return split.read(indices)

  stream = data.StreamBatches(Counting(), threads=1, **OPTIONS)
  whole = list(stream.epoch(1))
  reads.clear()
  rest = list(stream.epoch(1, 2))
  assert len(reads) == 1
  jax.tree.map(np.testing.assert_array_equal, rest, whole[2:])
  assert list(stream.epoch(1, 3)) == []


def test_processes_share_streamed_batches(source):
  whole = data.StreamBatches(source, **OPTIONS).epoch(0)
  parts = [
    data.StreamBatches(source, process_index=p, process_count=2, **OPTIONS)
    for p in range(2)
  ]
  steps = zip(whole, parts[0].epoch(0), parts[1].epoch(0), strict=True)
  for rows, first, second in steps:
    joined = jax.tree.map(lambda *part: np.concatenate(part), first, second)
    jax.tree.map(np.testing.assert_array_equal, joined, rows)


def test_stream_stops_its_threads_when_left_early(source):
  before = threading.active_count()
  epoch = data.StreamBatches(source, **OPTIONS).epoch(0)
  next(epoch)
  epoch.close()
  deadline = time.monotonic() + 800
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.01)
  assert threading.active_count() <= before


def test_stream_passes_on_the_errors_of_reading(split):
  class Broken:
    def __getattr__(self, name):
      return getattr(split, name)

    def read(self, indices):
      raise OSError("the disk is gone")

  with pytest.raises(OSError, match="the disk is gone"):
    next(data.StreamBatches(Broken(), **OPTIONS).epoch(0))


def test_stream_refuses_bad_options_at_once(source):
  with pytest.raises(ValueError, match="threads: expected a number above 0"):
    data.StreamBatches(source, threads=0, **OPTIONS)
  with pytest.raises(ValueError, match="start_step: expected"):
    data.StreamBatches(source, **OPTIONS).epoch(0, 4)


def test_memory_batches_refuse_a_source_on_disk(source):
  with pytest.raises(TypeError, match="expected a Split, got TfdsSource"):
    data.MemoryBatches(source, **OPTIONS)


@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_evaluation_batches_visit_every_example_in_order(kind, source, split):
  batches = data.evaluation_batches(
    split if kind == "memory" else source,
    batch_size=8,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
  )
  steps = [batches.prepare(batches.resident, b) for b in batches.epoch(0)]
  joined = jax.tree.map(lambda *rows: np.concatenate(rows), *steps)
  assert joined["mask"].tolist() == [True] * 20 + [False] * 4
  np.testing.assert_array_equal(joined["image"][:20], split.images)
  np.testing.assert_array_equal(joined["label"][:20], split.labels)
  again = itertools.islice(batches.epoch(0), 1)
  np.testing.assert_array_equal(next(again)["index"], np.arange(8))

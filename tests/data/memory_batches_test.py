import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import data


@pytest.fixture
def split():
  return data.load("digits", "train", limit=50)


def make(split, **changes):
  options = {"batch_size": 16, "seed": 3, "mean": (70.0,), "std": (90.0,)}
  return data.MemoryBatches(split, **(options | changes))


def test_epoch_visits_every_example_once_and_masks_the_rest(split):
  batches = make(split)
  assert batches.steps_per_epoch == 4
  steps = list(batches.epoch(2))
  assert [len(step["index"]) for step in steps] == [16] * 4
  index = np.concatenate([step["index"] for step in steps])
  mask = np.concatenate([step["mask"] for step in steps])
  assert sorted(index[mask]) == list(range(50))
  assert (index[~mask] == 0).all()
  assert mask.tolist() == [True] * 50 + [False] * 14
  for step in steps:
    assert step["index"].dtype == step["epoch"].dtype == np.int32
    assert step["mask"].dtype == bool
    assert (step["epoch"] == 2).all()


def test_epoch_drops_the_short_batch_on_request(split):
  batches = make(split, drop_last=True)
  steps = list(batches.epoch(0))
  assert batches.steps_per_epoch == len(steps) == 3
  assert all(step["mask"].all() for step in steps)


def test_epoch_is_a_function_of_seed_and_epoch(split):
  def order(seed, epoch):
    steps = make(split, seed=seed).epoch(epoch)
    return np.concatenate([step["index"] for step in steps]).tolist()

  assert order(3, 0) == order(3, 0)
  assert order(3, 0) != order(3, 1)
  assert order(3, 0) != order(4, 0)
  # A resumed run must find the same order in years to come.
  assert order(3, 0)[:5] == [43, 6, 13, 31, 26]


def test_epoch_resumes_at_any_step(split):
  batches = make(split)
  whole = list(batches.epoch(1))
  for start in range(batches.steps_per_epoch + 1):
    rest = list(batches.epoch(1, start))
    jax.tree.map(np.testing.assert_array_equal, rest, whole[start:])


def test_epoch_without_shuffle_keeps_the_order(split):
  steps = list(make(split, shuffle=False).epoch(5))
  assert steps[1]["index"].tolist() == list(range(16, 32))


def test_processes_share_every_batch(split):
  whole = list(make(split).epoch(0))
  parts = [
    list(make(split, process_index=p, process_count=4).epoch(0)) for p in range(4)
  ]
  for step, rows in enumerate(whole):
    for name in rows:
      joined = np.concatenate([part[step][name] for part in parts])
      np.testing.assert_array_equal(joined, rows[name])


def test_prepare_gathers_and_normalises(split):
  batches = make(split)
  batch = next(batches.epoch(0))
  prepared = jax.jit(batches.prepare)(batches.resident, batch)
  expected = (split.images[batch["index"]].astype(np.float64) - 70) / 90
  np.testing.assert_allclose(prepared["image"], expected, atol=1e-6)
  assert prepared["label"].dtype == jnp.int32
  np.testing.assert_array_equal(prepared["label"], split.labels[batch["index"]])
  np.testing.assert_array_equal(prepared["mask"], batch["mask"])


@pytest.mark.slow
@pytest.mark.eight_devices
def test_prepare_is_the_same_on_one_and_on_eight_devices(split):
  augmentation = data.Augmentation(flip=True, padding=2)
  batches = make(split, augmentation=augmentation)
  *_, batch = batches.epoch(0)
  whole = jax.jit(batches.prepare)(batches.resident, batch)
  shares = jax.tree.map(lambda rows: rows.reshape(8, 2), batch)
  mapped = jax.pmap(batches.prepare, in_axes=(None, 0))(batches.resident, shares)
  for name, rows in whole.items():
    np.testing.assert_array_equal(mapped[name].reshape(rows.shape), rows)


@pytest.mark.slow
def test_prepare_augments_an_example_alike_in_any_batch(split):
  augmentation = data.Augmentation(flip=True, padding=2)

  def images(batch_size):
    batches = make(split, batch_size=batch_size, augmentation=augmentation)
    found = np.empty((50, 8, 8, 1), np.float32)
    prepare = jax.jit(batches.prepare)
    for batch in batches.epoch(7):
      prepared = prepare(batches.resident, batch)
      found[batch["index"]] = prepared["image"]
    return found

  np.testing.assert_array_equal(images(50), images(9))


@pytest.mark.slow
def test_prepare_of_another_seed_is_the_same_program(split):
  augmentation = data.Augmentation(flip=True, padding=2)
  programs, images = [], []
  for seed in (0, 2**32 - 1):
    batches = make(split, seed=seed, augmentation=augmentation)
    batch = {"index": np.arange(4), "epoch": np.zeros(4, np.int32)}
    arguments = batches.resident, {**batch, "mask": np.ones(4, bool)}
    prepare = jax.jit(batches.prepare)
    programs.append(prepare.lower(*arguments).as_text())
    images.append(prepare(*arguments)["image"])
    keys = data.example_keys(seed, batch["epoch"], batch["index"])
    expected = data.augment(split.images[:4], keys, flip=True, padding=2)
    expected = (np.asarray(expected, np.float64) - 70) / 90
    np.testing.assert_allclose(images[-1], expected, atol=1e-6)
  assert programs[0] == programs[1]
  assert not np.array_equal(*images)


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    ({"batch_size": 51}, ValueError, r"batch_size: expected 1\.\.50 .* got 51"),
    ({"batch_size": 0}, ValueError, r"batch_size: expected 1\.\.50 .* got 0"),
    ({"process_count": 3}, ValueError, r"multiple of process_count \(3\)"),
    (
      {"process_count": 2, "process_index": 2},
      ValueError,
      r"process_index: expected 0\.\.1 .* got 2",
    ),
    ({"seed": -1}, ValueError, r"seed: expected 0\.\.2\*\*32-1, got -1"),
    ({"batch_size": 2.5}, TypeError, "batch_size: expected a whole number.* got 2.5"),
    ({"seed": 1.5}, TypeError, "seed: expected a whole number.* got 1.5"),
    ({"mean": (1.0, 2.0)}, ValueError, "expected 1 numbers each"),
    ({"mean": (float("nan"),)}, ValueError, "mean: expected finite numbers"),
    ({"std": (float("inf"),)}, ValueError, "std: expected finite numbers"),
    ({"mean": "a"}, TypeError, "mean: expected numbers, got 'a'"),
    ({"dtype": jnp.int32}, TypeError, "dtype: expected a floating-point dtype"),
  ],
)
def test_memory_batches_refuse_bad_options(split, changes, error, message):
  with pytest.raises(error, match=message):
    make(split, **changes)


def test_epoch_refuses_bad_positions_at_once(split):
  batches = make(split)
  with pytest.raises(ValueError, match=r"start_step: expected 0\.\.4 .* got 5"):
    batches.epoch(0, 5)
  with pytest.raises(ValueError, match="epoch: expected .* got -1"):
    batches.epoch(-1)

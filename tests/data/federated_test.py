import dataclasses

import jax
import numpy as np
import pytest

from flowkd_jax import data

SIZES = (3, 20, 9, 12)


@pytest.fixture
def split():
  return data.load("digits", "train", limit=sum(SIZES))


@pytest.fixture
def clients():
  order = np.arange(sum(SIZES)) * 5 % sum(SIZES)
  return tuple(np.split(order, np.cumsum(SIZES)[:-1]))


def make(split, clients, **changes):
  images = data.MemoryBatches(
    split,
    batch_size=1,
    seed=3,
    mean=(70.0,),
    std=(90.0,),
    augmentation=data.Augmentation(padding=1),
  )
  images = dataclasses.replace(images, **changes.pop("images", {}))
  options = {"clients_per_round": 2, "local_steps": 5, "minibatch_size": 4}
  return data.FederatedBatches(images, clients=clients, **(options | changes))


def test_a_round_gives_its_clients_minibatches_of_their_own_examples(split, clients):
  batches = make(split, clients)
  for epoch in range(6):
    (step,) = batches.epoch(epoch)
    assert step["index"].shape == step["mask"].shape == (2, 5, 4)
    assert len(set(step["client"])) == 2
    for row, client in enumerate(step["client"]):
      assert step["size"][row] == len(clients[client])
      index, mask = step["index"][row], step["mask"][row]
      assert set(index[mask]) <= set(clients[client].tolist())
      assert (mask.sum(1) == min(4, len(clients[client]))).all()
      for rows, real in zip(index, mask, strict=True):
        assert len(set(rows[real])) == real.sum()  # without replacement


def test_examples_come_once_in_every_pass_in_a_new_order(split, clients):
  batches = make(split, clients, clients_per_round=4, local_steps=6)
  (step,) = batches.epoch(0)
  row = step["client"].tolist().index(3)  # 12 examples: three minibatches a pass
  passes = step["index"][row].reshape(2, 12)
  for seen in passes:
    assert sorted(seen) == sorted(clients[3])
  assert passes[0].tolist() != passes[1].tolist()


def test_all_clients_take_part_equally_often_in_the_long_run(split, clients):
  batches = make(split, clients, clients_per_round=1, rounds_per_epoch=400)
  chosen = np.concatenate([step["client"] for step in batches.epoch(0)])
  np.testing.assert_allclose(np.bincount(chosen) / 400, 0.25, atol=0.08)


def test_rounds_are_a_function_of_seed_and_number_and_can_be_resumed(split, clients):
  batches = make(split, clients, rounds_per_epoch=3)
  whole = list(batches.epoch(1))
  assert len(whole) == batches.steps_per_epoch == 3
  for start in range(4):
    rest = list(batches.epoch(1, start))
    jax.tree.map(np.testing.assert_array_equal, rest, whole[start:])
  singly = make(split, clients)  # an epoch a round: the same rounds
  for number, step in enumerate(whole, start=3):
    jax.tree.map(np.testing.assert_array_equal, next(singly.epoch(number)), step)
  other = make(split, clients, rounds_per_epoch=3, images={"seed": 4})
  assert any(
    (a["index"] != b["index"]).any() for a, b in zip(whole, other.epoch(1), strict=True)
  )
  # A resumed run must find the same rounds in years to come.
  assert whole[0]["client"].tolist() == [1, 2]
  assert whole[0]["index"][0, 0].tolist() == [6, 20, 25, 41]


@pytest.mark.slow
def test_prepare_is_that_of_the_images(split, clients):
  batches = make(split, clients, clients_per_round=4)
  (step,) = batches.epoch(2)
  prepared = jax.jit(batches.prepare)(batches.resident, step)
  assert prepared["image"].shape == (4, 5, 4, 8, 8, 1)
  np.testing.assert_array_equal(prepared["label"], split.labels[step["index"]])
  for name in ("mask", "client", "size"):
    np.testing.assert_array_equal(prepared[name], step[name])
  rows = {name: step[name][1, 3] for name in ("index", "epoch", "mask")}
  expected = batches.images.prepare(batches.resident, rows)["image"]
  np.testing.assert_allclose(prepared["image"][1, 3], expected, rtol=1e-6)


@pytest.mark.slow
def test_an_example_is_augmented_anew_in_every_pass(split, clients):
  batches = make(split, clients, clients_per_round=4)
  (step,) = batches.epoch(0)
  prepared = batches.prepare(batches.resident, step)
  row = step["client"].tolist().index(0)  # all of its three examples in each minibatch
  example = step["index"][row, 0, 0]
  places = np.argwhere(step["mask"][row] & (step["index"][row] == example))
  images = {np.asarray(prepared["image"][row, i, j]).tobytes() for i, j in places}
  assert len(places) == 5
  assert len(images) > 1


def test_processes_share_the_clients_of_a_round(split, clients):
  whole = next(make(split, clients, clients_per_round=4).epoch(0))
  parts = [
    next(
      make(
        split,
        clients,
        clients_per_round=4,
        images={"batch_size": 2, "process_index": p, "process_count": 2},
      ).epoch(0)
    )
    for p in range(2)
  ]
  for name, rows in whole.items():
    joined = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(joined, rows)


def test_federated_batches_describe_their_data(split, clients):
  batches = make(split, clients)
  assert batches.batch_size == 2
  assert batches.num_examples == sum(SIZES)
  assert batches.num_classes == 10
  assert batches.image_shape == (8, 8, 1)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"clients_per_round": 5}, r"clients_per_round: expected 1\.\.4 .* got 5"),
    ({"local_steps": 0}, "local_steps: expected a number above 0, got 0"),
    ({"minibatch_size": 0}, "minibatch_size: expected a number above 0"),
    ({"rounds_per_epoch": 0}, "rounds_per_epoch: expected a number above 0"),
    (
      {"clients_per_round": 3, "images": {"batch_size": 2, "process_count": 2}},
      r"clients_per_round: expected a multiple of process_count \(2\), got 3",
    ),
    (
      {"clients": (np.arange(3), np.arange(0))},
      "clients: client 1 of 2 has no examples; every client needs one",
    ),
    ({"clients": (np.array([2, 44]),)}, r"clients: expected indices in 0\.\.43, .*44"),
  ],
)
def test_federated_batches_refuse_bad_options(split, clients, changes, message):
  changes = {"clients": clients, "clients_per_round": 1, **changes}
  with pytest.raises(ValueError, match=message):
    make(split, **changes)


def test_federated_batches_refuse_what_is_not_in_memory(split, clients):
  with pytest.raises(TypeError, match="images: expected MemoryBatches, got Split"):
    data.FederatedBatches(
      split, clients=clients, clients_per_round=1, local_steps=1, minibatch_size=1
    )


def test_epoch_refuses_bad_positions_at_once(split, clients):
  batches = make(split, clients, rounds_per_epoch=3)
  with pytest.raises(ValueError, match=r"start_step: expected 0\.\.3 .* got 4"):
    batches.epoch(0, 4)
  with pytest.raises(ValueError, match="epoch: expected .* got -1"):
    batches.epoch(-1)

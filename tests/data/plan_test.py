"""Rows of every step of every epoch."""

import numpy as np
import pytest

from flowkd_jax.data import _plan


def _plan_of(**options):
  given = {
    "num_examples": 10,
    "batch_size": 4,
    "seed": 0,
    "shuffle": False,
    "drop_last": False,
    "process_index": 0,
    "process_count": 1,
  }
  return _plan.EpochPlan(**{**given, **options})


def test_last_step_is_padded_or_left_out():
  rows = list(_plan_of().epoch_rows(2, 0))
  assert [row["index"].tolist() for row in rows] == [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [8, 9, 0, 0],
  ]
  assert rows[-1]["mask"].tolist() == [True, True, False, False]
  assert rows[0]["mask"].all()
  assert all((row["epoch"] == 2).all() for row in rows)
  plan = _plan_of(drop_last=True)
  assert plan.steps_per_epoch == len(list(plan.epoch_rows(0, 0))) == 2


def test_processes_take_contiguous_shares_of_a_step():
  whole = list(_plan_of(shuffle=True).epoch_rows(1, 0))
  shares = [
    list(_plan_of(shuffle=True, process_index=i, process_count=2).epoch_rows(1, 0))
    for i in range(2)
  ]
  for step, row in enumerate(whole):
    for name, expected in row.items():
      joined = np.concatenate([share[step][name] for share in shares])
      np.testing.assert_array_equal(joined, expected)


def test_epoch_goes_on_from_a_step():
  plan = _plan_of(shuffle=True)
  late, whole = list(plan.epoch_rows(3, 1)), list(plan.epoch_rows(3, 0))
  assert len(late) == 2
  np.testing.assert_array_equal(late[0]["index"], whole[1]["index"])
  assert list(plan.epoch_rows(3, plan.steps_per_epoch)) == []


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"batch_size": 11}, "batch_size: expected 1..10"),
    ({"batch_size": 0}, "batch_size: expected 1..10"),
    ({"seed": -1}, "seed: expected 0..2"),
    ({"process_index": 1}, "process_index: expected 0..0"),
    ({"process_count": 3}, "batch_size: expected a multiple of process_count"),
  ],
)
def test_impossible_plans_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    _plan_of(**options)


@pytest.mark.parametrize(
  ("position", "match"),
  [((-1, 0), "epoch: expected 0"), ((0, 4), "start_step: expected 0..3")],
)
def test_positions_outside_an_epoch_are_refused(position, match):
  with pytest.raises(ValueError, match=match):
    _plan_of().check_position(*position)

"""Estimated and measured times of runs."""

import json

import pytest

from experiments.studies import step_costs

# 100 steps of 1 ms on an H100.
COST = step_costs.StageCost("student", 10, 100, 7.6e10, 1)


def _train(folder, stage, seconds):
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / "metrics.jsonl").open("a") as file:
    file.write(json.dumps({"stage": stage, "epoch": -1}) + "\n")
    for epoch, each in enumerate(seconds):
      entry = {"stage": stage, "epoch": epoch, "seconds": each}
      file.write(json.dumps(entry) + "\n")
    file.write('{"stage": "stud')


def test_large_steps_are_bound_by_operations_and_small_ones_by_kernels():
  assert COST.epoch_seconds == pytest.approx(0.1)
  resnet_20 = step_costs.StageCost("teacher", 1, 1, 16e9, 60)
  assert resnet_20.epoch_seconds == pytest.approx(2.66e-3, rel=0.05)
  resnet_18 = step_costs.StageCost("teacher", 1, 1, 372e9, 60)
  assert resnet_18.epoch_seconds == pytest.approx(4.89e-3, rel=0.05)


def test_measured_epochs_count_in_place_of_the_estimate(tmp_path):
  folder = tmp_path / "run"
  before = step_costs.left(folder, [COST])
  assert not before.measured
  assert before.seconds == pytest.approx(1 + 25)
  assert step_costs.left(folder, [COST], factor=3).seconds == pytest.approx(3 + 25)
  _train(folder, "student", [9, 2, 2, 2])
  now = step_costs.left(folder, [COST])
  assert now.measured
  assert now.seconds == pytest.approx(6 * 2 + 25)
  assert step_costs.factor_of([(folder, [COST])]) == pytest.approx(20)
  other = COST._replace(stage="teacher")  # of the same run, scaled by what is measured
  both = step_costs.left(folder, [COST, other])
  assert both.seconds == pytest.approx(6 * 2 + 25 + 10 * 2 + 25)


def test_a_finished_stage_needs_nothing(tmp_path):
  (tmp_path / "student").mkdir()
  (tmp_path / "student" / "results.json").write_text("[]")
  assert step_costs.left(tmp_path, [COST]).seconds == 0


def test_work_is_counted_in_estimated_seconds_or_epochs(tmp_path):
  _train(tmp_path, "student", [1, 1, 1])
  assert step_costs.done(tmp_path, [COST]) == pytest.approx(0.3)
  assert step_costs.done(tmp_path, []) == 3
  assert step_costs.left(tmp_path, []).seconds is None
  assert step_costs.factor_of([(tmp_path, [])]) is None

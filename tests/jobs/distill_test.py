"""The job that combines losses, small."""

import json

import numpy as np
import pytest

from flowkd_jax import report
from flowkd_jax.jobs import distill

pytestmark = pytest.mark.optimizer
TINY = {
  "dataset": "digits",
  "teacher_network": "digits_cnn:4",
  "student_network": "digits_cnn:2",
  "batch_size": 200,
  "measure": (),
  "diagnostics": False,
  "teacher_epochs": "1@0.05",
  "student_epochs": "2@0.05",
}


@pytest.mark.slow
def test_all_stages_leave_their_results(tmp_path):
  losses = "kd(temperature=2):0.9,vid[dense]:warmup(2,2)"
  workdir = tmp_path / "run"
  config = distill.configure(
    **TINY, workdir=str(workdir), losses=losses, label_weight=0.1, label_smoothing=0.1
  )
  distill.run(config)
  results = json.loads((workdir / "results.json").read_text())["networks"]
  assert [r["name"] for r in results] == list(distill.STAGES)
  assert [r["title"] for r in results][2] == "student by kd, vid"
  assert [r["teacher"] for r in results] == [None, None, "teacher"]
  for result in results:
    measured = [
      record["test_accuracy"]
      for record in report.read_metrics(workdir)
      if record["stage"] == result["name"] and record["epoch"] >= 0
    ]
    assert result["accuracy"] == measured[-1]
    assert result["best_test_epoch_accuracy"] == max(measured)
    assert measured[result["best_test_epoch"]] == max(measured)
  student = [r for r in report.read_metrics(workdir) if r["stage"] == "student"]
  assert [record["weight/vid"] for record in student[1:]] == [1, 2]
  np.testing.assert_allclose(student[1]["weight/labels"], 0.1)
  assert "(best ep.)" in (workdir / "results.md").read_text()
  again = distill.configure(
    **{**TINY, "student_epochs": "1@0.05"},
    workdir=str(tmp_path / "again"),
    networks_from=str(workdir),
    stages=("teacher", "student"),
    losses="pkt",
  )
  distill.run(again)
  results = json.loads((tmp_path / "again" / "results.json").read_text())["networks"]
  assert [r["title"] for r in results][0] == "teacher on labels, of an earlier run"
  with pytest.raises(ValueError, match="belongs to a run with other settings.*losses"):
    distill.run(
      distill.configure(**TINY, workdir=str(workdir), losses="kd", label_weight=0.1)
    )


def test_losses_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
  config = distill.configure(
    **TINY, workdir=str(tmp_path / "W"), losses="kd(temperature=-1)"
  )
  with pytest.raises(
    ValueError, match="stage student: losses: kd: temperature: expect"
  ):
    distill.run(config)
  assert not [*(tmp_path / "W").glob("*.json")]


def test_the_best_test_epoch_is_the_first_of_the_highest():
  metrics = [
    {"epoch": -1, "test_accuracy": 1.0},
    {"epoch": 0, "test_accuracy": 0.5},
    {"epoch": 1, "test_accuracy": 0.7},
    {"epoch": 2},
    {"epoch": 3, "test_accuracy": 0.7},
    {"epoch": 4, "test_accuracy": None},
  ]
  expected = {"best_test_epoch_accuracy": 0.7, "best_test_epoch": 1}
  assert distill.best_test_epoch(metrics) == expected
  assert distill.best_test_epoch(metrics[3:4]) == {}

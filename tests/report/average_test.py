"""Means over runs."""

import numpy as np
import pytest

from flowkd_jax import report
from flowkd_jax.report import _average
from flowkd_jax.report import _series


def _entry(stage, epoch, **values):
  return {"stage": stage, "epoch": epoch, "step": 7, **values}


def test_mean_metrics_average_the_runs_that_have_a_number():
  logs = [
    [_entry("a", 0, loss=1.0), _entry("a", 1, loss=3.0), _entry("b", 0, loss=None)],
    [_entry("a", 0, loss=2.0), _entry("b", 0, loss=4)],
    [_entry("c", 0, loss=float("nan"), accuracy=0.5)],
  ]
  found = _average.mean_metrics(logs)
  assert [(entry["stage"], entry["epoch"]) for entry in found] == [
    ("a", 0),
    ("a", 1),
    ("b", 0),
    ("c", 0),
  ]
  assert [entry.get("loss") for entry in found] == [1.5, 3.0, 4.0, None]
  line = _series.series(found, "a", "loss")
  np.testing.assert_array_equal(line.band, [[1.0, 3.0], [2.0, 3.0]])


def test_mean_metrics_keep_the_order_of_stages_and_taps(metrics):
  backwards = [entry for entry in reversed(metrics) if entry["stage"] == "student"]
  found = _average.mean_metrics([metrics, backwards])
  for prefix in ("qmi/", "loss/", "weight/"):
    assert _series.stages_with(found, prefix) == _series.stages_with(metrics, prefix)
    taps = _series.endings(metrics, "student", prefix)
    assert _series.endings(found, "student", prefix) == taps


@pytest.mark.slow
def test_mean_of_equal_runs_is_drawn_as_one_of_them(metrics, results):
  logs, networks = [metrics] * 3, [results] * 3
  mean = _average.mean_metrics(logs), _average.mean_results(networks)
  for draw in (report.training_picture, report.flow_picture, report.loss_picture):
    _same_lines(draw(metrics, results), draw(*mean))
  _same_lines(
    report.precision_recall_picture(results), report.precision_recall_picture(mean[1])
  )


def _same_lines(expected, found):
  for one, other in zip(expected.axes, found.axes, strict=True):
    assert one.get_title(loc="left") == other.get_title(loc="left")
    for line, mean in zip(one.get_lines(), other.get_lines(), strict=True):
      np.testing.assert_allclose(mean.get_xydata(), line.get_xydata(), rtol=1e-12)
    solid = [line for line in other.get_lines() if not line.is_dashed()]
    assert len(other.collections) == len(solid)  # a band each


def test_mean_results_leave_out_curves_that_are_no_numbers_or_at_other_levels(results):
  other = {
    **results[0],
    "retrieval": {"cosine": dict(results[0]["retrieval"]["cosine"])},
  }
  other["retrieval"]["cosine"] |= {"recall_levels": [0.5], "precision": [0.5]}
  unmeasured = {"name": results[0]["name"], "retrieval": None}
  diverged = {**unmeasured, "retrieval": {"cosine": {"mean_average_precision": None}}}
  (found,) = _average.mean_results([[results[0]], [other], [unmeasured], [diverged]])
  assert found["title"] == results[0]["title"]
  expected = results[0]["retrieval"]["cosine"]["precision"]
  np.testing.assert_allclose(found["retrieval"]["cosine"]["precision"], expected)


def test_mean_results_have_the_mean_times_of_runs_that_recorded_them():
  runs = [[{"name": "a", "times": {"steps": steps}}] for steps in (1.0, 3.0)]
  (found,) = _average.mean_results([*runs, [{"name": "a"}]])
  assert found["times"] == {"steps": 2.0}

"""Pictures of time by part."""

import numpy as np
import pytest

from flowkd_jax import report
from flowkd_jax.report import _colors
from flowkd_jax.report import _times


def test_time_picture_has_a_bar_for_each_run_and_a_part_for_each_cause():
  bars = {
    "one": {"steps": 300.0, "compiling": 60.0},
    "two": {"steps": 60.0, "new": 6.0},
  }
  figure = report.time_picture({**bars, "none": {}})
  (axes,) = figure.axes
  assert axes.get_xlabel() == "minutes"
  assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
  widths = [[bar.get_width() for bar in part] for part in axes.containers]
  np.testing.assert_allclose(widths, [[5, 1], [1, 0], [0, 0.1]])
  assert [text.get_text() for text in axes.texts] == ["6", "1.1"]
  (legend,) = figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels == ["steps", "compiling", "other"]
  shown = [part.patches[0].get_facecolor()[:3] for part in axes.containers]
  expected = [handle.get_facecolor()[:3] for handle in legend.legend_handles]
  assert shown == expected
  assert set(labels) <= set(_colors.PARTS)


def test_time_picture_without_times_is_refused():
  with pytest.raises(report.NothingToDrawError, match="bars: expected times by part"):
    report.time_picture({"old": {}})


def test_networks_of_a_stage_share_its_time():
  times = {"steps": 3.0}
  results = [
    {"name": "alone", "title": "alone", "times": {"steps": 1.0}},
    {"name": "both/one", "title": "both together, one", "times": times},
    {"name": "both/two", "title": "both together, two", "times": times},
    {"name": "old", "title": "of version 0.1"},
  ]
  expected = {"alone": {"steps": 1.0}, "both together": times}
  assert _times.times_of_run(results) == expected

"""Pictures of the teacher layers that student layers resemble."""

import numpy as np
import pytest

from flowkd_jax import report


@pytest.fixture
def log():
  """A student of two taps, one of which leaves the teacher tap that it learns from."""
  teacher = {
    "stage": "teacher",
    "epoch": 3,
    "qmi/cosine/t_10": 1.0,
    "qmi/cosine/t_9": 2,
  }
  entries = [teacher]
  for epoch in range(4):
    values = {"a:t_9": 0.2, "a:t_10": 0.5, "b:t_9": 0.6, "b:t_10": 0.5 + 0.1 * epoch}
    entry = {f"cka_pair/{pair}": value for pair, value in values.items()}
    entry |= {"cka/a": values["a:t_10"], "cka/b": values["b:t_9"]}
    entries.append({"stage": "student", "epoch": epoch, **entry})
  return entries


def _bold(axes):
  return [t.get_text() for t in axes.get_yticklabels() if t.get_fontweight() == "bold"]


def test_likeness_picture_shows_every_pair_and_the_most_alike(log):
  results = [{"name": "student", "title": "the student", "teacher": "teacher"}]
  figure = report.likeness_picture(log, results)
  first, second, bar = figure.axes
  assert [axes.get_title(loc="left") for axes in (first, second)] == ["a", "b"]
  # From input to output as the flow of the teacher was measured, not by name.
  taps = [label.get_text() for label in first.get_yticklabels()]
  assert taps == ["t_10", "t_9"]
  assert (_bold(first), _bold(second)) == (["t_10"], ["t_9"])
  values = second.collections[0].get_array().reshape(2, 4)
  np.testing.assert_allclose(values, [[0.5, 0.6, 0.7, 0.8], [0.6] * 4])
  (dots,) = second.get_lines()
  np.testing.assert_array_equal(dots.get_xdata(), [1, 2, 3, 4])
  assert dots.get_ydata()[0] == 1
  assert [*dots.get_ydata()[2:]] == [0, 0]
  assert bar.get_ylabel() == "linear CKA"
  (legend,) = figure.legends
  assert "Bold: the layer that" in legend.get_title().get_text()


def test_likeness_picture_leaves_out_what_was_not_finite(log):
  log[1]["cka_pair/a:t_9"] = None
  figure = report.likeness_picture(log)
  values = figure.axes[0].collections[0].get_array().reshape(2, 4)
  assert np.ma.is_masked(values) or np.isnan(values[:, 0]).sum() == 1
  # Without the teacher's flow, taps are in the order of their numbers.
  figure = report.likeness_picture(log[1:])
  taps = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert taps == ["t_9", "t_10"]


def test_likeness_picture_needs_pairs_of_taps(metrics):
  with pytest.raises(report.NothingToDrawError, match="likeness of pairs of taps"):
    report.likeness_picture(metrics)

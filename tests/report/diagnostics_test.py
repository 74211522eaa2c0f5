"""Pictures of diagnostics."""

import numpy as np
import pytest

from flowkd_jax import report


def _titles(figure):
  return [axes.get_title(loc="left") for axes in figure.axes]


def _legend(artist):
  return [text.get_text() for text in artist.get_texts()]


def test_diagnostics_picture_draws_what_was_recorded(metrics, results):
  figure = report.diagnostics_picture(metrics, results)
  assert _titles(figure)[:2] == ["auxiliary, from teacher", "student, information flow"]
  names = ("norm of the gradient", "linear CKA with the teacher", "dead units, %")
  assert [axes.get_ylabel() for axes in figure.axes[::2]] == list(names)
  student = [e for e in metrics if e["stage"] == "student" and e["epoch"] >= 0]
  assert _legend(figure.axes[1].get_legend()) == [
    "block_1",
    "block_2",
    "block_3",
    "dense",
  ]
  for axes, key, factor in zip(
    figure.axes[1::2],
    ("gradient/dense", "cka/dense", "dead/dense"),
    (1, 1, 100),
    strict=True,
  ):
    drawn = axes.get_lines()[-1].get_ydata()
    expected = [factor * entry[key] for entry in student]
    np.testing.assert_allclose(drawn[-len(expected) :], expected)


def test_diagnostics_picture_of_networks_on_labels_has_dead_units_only(metrics):
  metrics = [entry for entry in metrics if entry["stage"].endswith("_labels")]
  figure = report.diagnostics_picture(metrics)
  assert [axes.get_ylabel() for axes in figure.axes] == ["dead units, %", ""]
  with pytest.raises(report.NothingToDrawError, match="expected diagnostics"):
    report.diagnostics_picture([{"stage": "student", "epoch": 0}])

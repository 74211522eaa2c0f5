"""The look of every picture: colours, axes, notebooks."""

import struct
import subprocess
import sys

import numpy as np
import pytest

from flowkd_jax import report
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors


def _lines(axes, *, dashed=False):
  """Drawn lines, or the dashed levels, with colour and values."""
  return {
    line.get_color(): np.asarray(line.get_ydata())
    for line in axes.get_lines()
    if line.is_dashed() == dashed
  }


@pytest.mark.slow
def test_twelve_networks_have_a_look_of_their_own(metrics):
  (first, *_) = [entry for entry in metrics if entry["stage"] == "student_labels"]
  many = [{**first, "stage": f"row {n}"} for n in range(12)]
  figure = report.flow_picture(many)
  lines = figure.axes[0].get_lines()
  # Colours of roles are lent to nobody, so that marks differ where colours do not.
  assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12
  handles = figure.legends[0].legend_handles
  shown = {(h.get_color(), h.get_marker().replace("None", "o")) for h in handles}
  assert shown == {(line.get_color(), line.get_marker()) for line in lines}


def test_networks_have_one_color_in_all_pictures(metrics, results):
  figures = [
    report.flow_picture(metrics, results),
    report.training_picture(metrics, results),
    report.precision_recall_picture(results),
  ]
  colors = [
    set(_lines(figure.axes[panel]))
    for figure, panel in zip(figures, (0, -1, -1), strict=True)
  ]
  assert colors[0] == colors[1] == colors[2]
  assert len(colors[0]) == 5


@pytest.mark.slow
def test_pictures_show_themselves_in_notebooks_without_pyplot(results):
  png = report.precision_recall_picture(results)._repr_png_()
  assert struct.unpack(">I", png[16:20]) == (1200,)


@pytest.mark.slow
def test_import_does_not_load_matplotlib():
  code = "import sys; from flowkd_jax import report; print('matplotlib' in sys.modules)"
  found = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
  ("values", "scale"), [([1, 100], "log"), ([1, 3], "linear"), ([-1, 0], "linear")]
)
def test_log_scale_is_for_values_that_span_much(values, scale):
  figure, grid = _canvas.new_figure(1, 1, title="")
  axes = grid[0, 0]
  axes.plot(values)
  _canvas.log_scale(axes)
  assert axes.get_yscale() == scale
  assert figure.axes == [axes]


def test_plain_scale_begins_at_zero_unless_that_would_squeeze():
  _, grid = _canvas.new_figure(1, 3, title="")
  low, high, empty = grid[0]
  low.plot([0.2, 1.0, np.nan])
  high.plot([0.9, 1.0])
  for axes in (low, high, empty):
    _canvas.plain_scale(axes)
  assert low.get_ylim()[0] == empty.get_ylim()[0] == 0
  assert high.get_ylim()[0] > 0.5


def test_a_mark_that_tells_networks_apart_is_on_every_line():
  plain, marked = _colors.Style("#000000"), _colors.Style("#000000", "s")
  points = (None, 5, 500)
  assert [_canvas.mark_of_line(plain, points=n) for n in points] == [
    "None",
    "o",
    "None",
  ]
  assert {_canvas.mark_of_line(marked, points=n) for n in points} == {"s"}

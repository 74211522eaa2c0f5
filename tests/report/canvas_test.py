"""The look of every picture: colours, axes, notebooks."""

import struct
import subprocess
import sys

import numpy as np
import pytest

from flowkd_jax import report
from flowkd_jax.report import _canvas


def _lines(axes, *, dashed=False):
  """Drawn lines, or the dashed levels, with colour and values."""
  return {
    line.get_color(): np.asarray(line.get_ydata())
    for line in axes.get_lines()
    if line.is_dashed() == dashed
  }


@pytest.mark.slow
def test_twelve_networks_have_colours_of_their_own(metrics):
  (first, *_) = [entry for entry in metrics if entry["stage"] == "student_labels"]
  many = [{**first, "stage": f"row {n}"} for n in range(12)]
  figure = report.flow_picture(many)
  assert len(_lines(figure.axes[0])) == 12


def test_networks_have_one_colour_in_all_pictures(metrics, results):
  figures = [
    report.flow_picture(metrics, results),
    report.training_picture(metrics, results),
    report.precision_recall_picture(results),
  ]
  colours = [
    set(_lines(figure.axes[panel]))
    for figure, panel in zip(figures, (0, -1, -1), strict=True)
  ]
  assert colours[0] == colours[1] == colours[2]
  assert len(colours[0]) == 5


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


def test_tap_colours_are_darker_towards_the_output():
  def lightness(colour):
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

  shades = [lightness(c) for c in _canvas.tap_colours("abcd").values()]
  assert shades == sorted(shades, reverse=True)
  assert len(set(shades)) == 4
  assert [*_canvas.tap_colours(["only"])] == ["only"]


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

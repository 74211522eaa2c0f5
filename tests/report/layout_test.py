"""Texts of the pictures: inside the figure, and not printed over one another."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from experiments.studies import catalogue
from experiments.tables import kept_runs
from experiments.tables import network_rows
from experiments.tables import paired_arms
from experiments.tables import update
from flowkd_jax import report
from flowkd_jax.report import _canvas


def faults(figure):
  """Texts outside the figure, overlapping titles and names of axes."""
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  renderer = canvas.get_renderer()
  boxes = {}
  # Axes keep labels of ticks beyond their limits, which are not drawn.
  ticks = {
    label
    for axes in figure.axes
    for axis in (axes.xaxis, axes.yaxis)
    for label in axis.get_ticklabels(which="both")
  }
  for text in figure.findobj(Text):
    if text.get_visible() and text.get_text().strip() and text not in ticks:
      boxes[text] = text.get_window_extent(renderer)
  frame = figure.bbox
  found = [
    f"outside: {text.get_text()!r}"
    for text, box in boxes.items()
    if min(box.x0, box.y0) < -1 or box.x1 > frame.x1 + 1 or box.y1 > frame.y1 + 1
  ]
  titles = [figure._suptitle]
  for axes in figure.axes:
    titles += [axes.title, axes._left_title, axes._right_title, axes.yaxis.label]
  lines = [line for title in titles if title in boxes for line in _lines(title, boxes)]
  for (one, box), (other, beside) in itertools.combinations(lines, 2):
    if one is not other and box.shrunk(0.98, 0.9).overlaps(beside):
      found.append(f"overlap: {one.get_text()!r} and {other.get_text()!r}")
  return found


def _lines(title, boxes):
  """Box of each line of a text that is not empty, from the top."""
  box, rows = boxes[title], title.get_text().split("\n")
  if title.get_rotation():  # the name of an axis
    yield title, box
    return
  height = box.height / len(rows)
  for number, row in enumerate(rows):
    if row:
      top = box.y1 - number * height
      yield title, type(box).from_extents(box.x0, top - height, box.x1, top)


def _empty_rows(figure):
  """Number of rows of panels none of which has a line."""
  rows = {}
  for axes in figure.axes:
    row = axes.get_subplotspec().rowspan.start
    values = [len(np.asarray(line.get_xdata())) for line in axes.get_lines()]
    rows[row] = rows.get(row, False) or any(values)
  return sum(not drawn for drawn in rows.values())


KEPT = sorted(
  name
  for name, study in catalogue.STUDIES.items()
  if not study.grid and (update.HERE / "results" / name / kept_runs.FILE).exists()
)


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_pictures_of_kept_runs_have_their_texts_in_place(name):
  study, runs = catalogue.STUDIES[name], kept_runs.read(update.HERE / "results" / name)
  try:
    if study.comparison:
      figure = report.comparison_picture(paired_arms.curves(study, runs))
    else:
      figure = network_rows.flow_picture(study, runs)
  except report.NothingToDrawError:
    return
  assert faults(figure) == []
  assert _empty_rows(figure) == 0
  (legend,) = figure.legends
  labels = " ".join(text.get_text() for text in legend.get_texts())
  raw = [run.name for run in study.runs if "_" in run.name and run.name in labels]
  assert raw == [], "titles, not names of runs"
  if study.comparison:
    assert all(axes.get_ylim()[1] <= 100 for axes in figure.axes)


@pytest.mark.slow
def test_pictures_of_a_run_have_their_texts_in_place(metrics, results):
  for picture in (report.flow_picture, report.training_picture, report.loss_picture):
    assert faults(picture(metrics, results)) == [], picture.__name__


@pytest.mark.slow
def test_long_names_of_taps_and_networks_have_room():
  tap = "encoder/transformer/layers/11/attention/output/dense"
  metrics = [
    {"stage": stage, "epoch": epoch}
    | {
      f"qmi/cosine/{prefix}{tap}/{number}": 0.1 * number + epoch for number in range(2)
    }
    for stage, prefix in (("teacher", ""), ("student", "small/"))
    for epoch in (-1, 0)
  ]
  long = "a network with a name that somebody wrote in a hurry, of width 128, on labels"
  results = [
    {"name": "teacher", "title": f"teacher, {long}", "teacher": None},
    {"name": "student", "title": f"student, {long}", "teacher": "teacher"},
  ]
  assert faults(report.flow_picture(metrics, results)) == []


@pytest.mark.slow
def test_faults_are_seen():
  figure, grid = _canvas.new_figure(1, 1, title="")
  axes = grid[0, 0]
  axes.set_title(
    "a left title that is long and goes on and on until the right", loc="left"
  )
  axes.set_title(
    "a right title that is long and goes on and on to the left", loc="right"
  )
  figure.set_size_inches(4, 3)
  kinds = {fault.split(":")[0] for fault in faults(figure)}
  assert kinds == {"outside", "overlap"}

"""All pictures: texts in place, all points in sight, entries that can be told apart."""

import contextlib
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Patch
from matplotlib.text import Text

from experiments.studies import catalogue
from experiments.tables import kept_runs
from experiments.tables import study_pictures
from experiments.tables import study_sizes
from experiments.tables import update
from flowkd_jax import report
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _gallery
from flowkd_jax.report._average import mean_metrics
from flowkd_jax.report._average import mean_results


def faults(figure):
  """Texts outside or over each other, hidden points, entries that look the same."""
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
  return found + _ticks_that_touch(figure, renderer) + _hidden(figure) + _twins(figure)


def _ticks_that_touch(figure, renderer):
  """Labels of ticks of one axis that are printed over each other."""
  found = []
  for axes in figure.axes:
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
      low, high = sorted(limits)
      ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False)
      shown = [
        label
        for place, label in ticks
        if low <= place <= high and label.get_visible() and label.get_text()
      ]
      boxes = [label.get_window_extent(renderer) for label in shown]
      upright = not any(label.get_rotation() % 90 for label in shown)
      for (one, box), (other, beside) in itertools.combinations(
        zip(shown, boxes, strict=True), 2
      ):
        if upright and box.shrunk(0.98, 0.7).overlaps(beside):
          found.append(f"ticks: {one.get_text()!r} and {other.get_text()!r}")
  return found


def _hidden(figure):
  """Lines with a point outside the limits of their panel."""
  found = []
  for axes in figure.axes:
    low, high = sorted(axes.get_ylim())
    room = 1e-6 * (high - low)
    for line in axes.get_lines():
      values = np.asarray(line.get_ydata(), float)
      values = values[np.isfinite(values)]
      if axes.get_yscale() == "log":
        values = values[values > 0]  # what a logarithm has not, leaves a gap
      if ((values < low - room) | (values > high + room)).any():
        found.append(f"hidden: {axes.get_title(loc='left')!r}, {line.get_color()}")
  return found


def _twins(figure):
  """Entries of a legend that look the same."""
  legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
  found = []
  for legend in filter(None, legends):
    looks = [
      (h.get_facecolor() if isinstance(h, Patch) else (h.get_color(), h.get_marker()))
      + (() if isinstance(h, Patch) else (h.get_linestyle(),))
      for h in legend.legend_handles
    ]
    found += [f"twins: {look}" for look in {*looks} if looks.count(look) > 1]
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
  for name in catalogue.STUDIES
  if (update.HERE / "results" / name / kept_runs.FILE).exists()
)
DRAWN = {
  "flow": study_pictures.flow_picture,
  "curves": study_pictures.curves_picture,
  "sizes": study_sizes.size_picture,
  "times": study_pictures.time_picture,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_pictures_of_kept_runs_have_their_texts_in_place(name):
  study, runs = catalogue.STUDIES[name], kept_runs.read(update.HERE / "results" / name)
  figures = {}
  for kind, draw in DRAWN.items():
    with contextlib.suppress(report.NothingToDrawError):
      figures[kind] = draw(study, runs)
  assert figures
  for kind, figure in figures.items():
    assert faults(figure) == [], kind
    (legend,) = figure.legends
    labels = " ".join(text.get_text() for text in legend.get_texts())
    raw = [run.name for run in study.runs if "_" in run.name and run.name in labels]
    assert raw == [], "titles, not names of runs"
  if "flow" in figures:
    assert _empty_rows(figures["flow"]) == 0
  percent = [figures[kind] for kind in ("curves", "sizes") if kind in figures]
  assert all(a.get_ylim()[1] <= 102 for figure in percent for a in figure.axes)


def _with_pairs_and_times(metrics, results):
  """The run with what jobs of version 0.2 record beside."""
  taps = ("block_1", "block_2", "block_3", "dense")
  for number, entry in enumerate(metrics):
    if entry["stage"] == "student" and "cka/dense" in entry:
      for one, other in itertools.product(taps, taps):
        same = entry[f"cka/{one}"]
        value = same if one == other else (0.3 + 0.01 * number) % 1
        entry[f"cka_pair/{one}:{other}"] = value
  for network in results:
    network["times"] = {"steps": 300.0, "compiling": 20.0, "measuring": 30.0}


@pytest.mark.slow
@pytest.mark.parametrize("picture", _gallery.PICTURES, ids=lambda picture: picture.file)
def test_pictures_of_a_run_have_their_texts_in_place(picture, metrics, results):
  _with_pairs_and_times(metrics, results)
  styles = _colors.styles_of_run(metrics, results)
  assert faults(picture.draw(metrics, results, styles)) == []


@pytest.mark.slow
@pytest.mark.parametrize("picture", _gallery.PICTURES, ids=lambda picture: picture.file)
def test_pictures_of_means_say_what_bands_are(picture, metrics, results):
  _with_pairs_and_times(metrics, results)
  other = [
    {k: 0.9 * v if isinstance(v, float) else v for k, v in entry.items()}
    for entry in metrics
  ]
  means = mean_metrics([metrics, other])
  runs = [results, results] if picture.file == "precision_recall" else []
  networks = mean_results(runs) or results
  figure = picture.draw(means, networks, _colors.styles_of_run(means, networks))
  said = " ".join(legend.get_title().get_text() for legend in figure.legends)
  assert ("Band: " in said) == _canvas.has_bands(figure)
  assert faults(figure) == []


@pytest.mark.slow
def test_pictures_of_layers_and_images_have_their_texts_in_place():
  taps = [f"encoder/layers/{number}/output" for number in range(5)]
  matrix = np.linspace(0, 1, 25).reshape(5, 5)
  matrices = {"linear CKA": matrix, "distance of information flow": matrix}
  layers = report.layer_picture(
    matrices, taps, taps, dict(zip(taps, taps, strict=True))
  )
  assert faults(layers) == []
  names = ("a class with a long name", "another class, no shorter")
  images, labels = (
    np.zeros((2, 6, 8, 8, 3), np.uint8),
    np.array([[0, 1, 0, 1, 0, -1]] * 2),
  )
  found = images[:, 1:], labels[:, 1:]
  retrieved = report.retrieval_picture(
    images[:, 0], labels[:, 0], *found, class_names=names
  )
  assert faults(retrieved) == []


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
  for _ in range(2):
    axes.plot([0, 1], [0, 5], color="#123456", label="one")
  axes.legend()
  axes.set_ylim(0, 1)
  axes.set_xticks([0.5, 0.52], ["a long name", "another name"])
  figure.set_size_inches(4, 3)
  kinds = {fault.split(":")[0] for fault in faults(figure)}
  assert kinds == {"outside", "overlap", "hidden", "ticks", "twins"}

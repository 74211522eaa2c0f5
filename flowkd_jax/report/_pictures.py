"""Pictures of losses by tap, of retrieval, and of the course of training."""

from collections.abc import Iterable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from flowkd_jax.report import _average
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report import _read
from flowkd_jax.report import _series
from flowkd_jax.report._average import GREATEST
from flowkd_jax.report._average import LEAST
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

Styles = Mapping[str, _colors.Style]

_DISTANCES = {"euclidean": "Euclidean distance", "cosine": "Cosine distance"}


def loss_picture(
  metrics: MetricLog, results: Results = (), *, styles: Styles | None = None
) -> "Figure":
  """Loss and weight of each tap over the epochs, a column per network.

  Args:
    metrics: Metrics of `read_metrics`; keys `loss/TAP` and `weight/TAP`.
    results: Results of `read_results`, for titles.
    styles: Style of each network, from `network_styles`; by default that of a run.

  Raises:
    NothingToDrawError: If no stage recorded losses by tap.
  """
  stages = _series.stages_with(metrics, "loss/")
  if not stages:
    raise _canvas.NothingToDrawError(
      "metrics: expected losses by tap (loss/TAP), got none; networks that learn "
      "from labels alone have none"
    )
  titles = _series.network_titles(metrics, results)
  styles = styles or _colors.styles_of_run(metrics, results)
  figure, grid = _canvas.new_figure(
    2,
    len(stages),
    title="Matching of each tap: loss before weighting, and weight",
    width=max(8.0, 6.0 * len(stages)),
    height=6.4,
    height_ratios=(3, 2),
    share_x=True,
  )
  lines = _colors.term_styles(*_series.terms(metrics))
  for (row, column), axes in np.ndenumerate(grid):
    quantity, stage = ("loss", "weight")[row], stages[column]
    _draw_taps(axes, metrics, stage, quantity, lines)
    _canvas.name_axes(
      axes,
      title="" if row else titles[stage],
      x=_canvas.EPOCHS if row else "",
      y="" if column else f"{quantity} of the tap",
      color=styles[stage].color,
    )
  _legends.bands(figure)
  return figure


def _draw_taps(
  axes: "Axes", metrics: MetricLog, stage: str, quantity: str, styles: Styles
) -> None:
  """Draw a line per tap; taps with equal lines share one."""
  taps = _series.endings(metrics, stage, "loss/")
  groups: dict[bytes, list[str]] = {}
  for tap in taps:
    line = _series.series(metrics, stage, f"{quantity}/{tap}")
    if line.x.size:
      groups.setdefault(line.y.tobytes(), []).append(tap)
  for first, *others in groups.values():
    line = _series.series(metrics, stage, f"{quantity}/{first}")
    label = _span([first, *others], taps)
    _canvas.draw_line(axes, line, style=styles[first], label=label)
  _canvas.log_scale(axes)
  _canvas.whole_epochs(axes)
  _legends.beside(axes)


def _span(some: list[str], taps: list[str]) -> str:
  """Names of taps, in short if more than two are neighbours."""
  start = taps.index(some[0])
  if len(some) > 2 and taps[start : start + len(some)] == some:
    return f"{some[0]} to {some[-1]}"
  return ", ".join(some)


def precision_recall_picture(
  results: Results, *, styles: Styles | None = None
) -> "Figure":
  """Interpolated precision against recall of every network, a panel per distance.

  Args:
    results: Results of `read_results`.
    styles: Style of each network, from `network_styles`; by default that of a run.

  Raises:
    NothingToDrawError: If retrieval was not measured.
  """
  measured = {
    distance: {
      network["name"]: curve
      for network in results
      if (curve := _read.retrieval_curve(network, distance)) is not None
    }
    for distance in _DISTANCES
  }
  measured = {distance: found for distance, found in measured.items() if found}
  if not measured:
    raise _canvas.NothingToDrawError(
      "results: expected retrieval of at least one network, got none; it "
      "is measured when a network is trained"
    )
  titles = _series.network_titles((), results)
  styles = styles or _colors.styles_of_run((), results)
  figure, grid = _canvas.new_figure(
    1,
    len(measured),
    title="Retrieval on the test set: interpolated precision at each recall",
    width=max(7.0, 6.0 * len(measured)),
    height=5.2,
    share_y=True,
  )
  for axes, (distance, found) in zip(grid.flat, measured.items(), strict=True):
    _draw_retrieval(axes, found, titles, styles)
    _canvas.name_axes(
      axes,
      title=_DISTANCES[distance],
      x="recall, %",
      y="" if axes is not grid.flat[0] else "precision, %",
    )
  _legends.bands(figure)
  return figure


def _draw_retrieval(
  axes: "Axes",
  found: Mapping[str, Mapping[str, Any]],
  titles: dict[str, str],
  styles: Styles,
) -> None:
  """A line per network, the best first in the legend."""
  averages = {name: 100 * one["mean_average_precision"] for name, one in found.items()}
  best_first = sorted(averages, key=averages.__getitem__, reverse=True)
  student = _bold(averages, styles)
  for name in best_first:
    bold = name == student
    _canvas.draw_line(
      axes,
      _recall_line(found[name]),
      style=styles[name],
      label=f"{averages[name]:.1f} %  {titles[name]}{' (bold)' if bold else ''}",
      bold=bold,
    )
  axes.set(xlim=(0, 100), ylim=(0, 102))
  free_below = averages[best_first[0]] > 50
  meaning = "mean average precision" + ("; bold: the student" if student else "")
  _legends.inside(axes, title=meaning, low=free_below)


def _bold(names: Iterable[str], styles: Styles) -> str | None:
  """The network whose line is bold among others: the student, if it is there."""
  names = [*names]
  return _colors.focus({n: styles[n] for n in names}) if len(names) > 1 else None


def _recall_line(measured: Mapping[str, Any]) -> _series.Series:
  """Precision by recall, in percent; of a mean over runs with the range."""
  recall, precision = (
    np.array(measured[key]) for key in ("recall_levels", "precision")
  )
  limits = [f"{limit}precision" for limit in (LEAST, GREATEST)]
  known = all(limit in measured for limit in limits)
  band = 100 * np.stack([measured[limit] for limit in limits]) if known else None
  return _series.Series(100 * recall, 100 * precision, band)


def training_picture(
  metrics: MetricLog, results: Results = (), *, styles: Styles | None = None
) -> "Figure":
  """Test accuracy and training loss over the epochs of every network.

  Args:
    metrics: Metrics of `read_metrics`; keys `test_accuracy` and `loss`.
    results: Results of `read_results`, for titles.
    styles: Style of each network, from `network_styles`; by default that of a run.

  Raises:
    NothingToDrawError: If neither was recorded.
  """
  stages = dict.fromkeys(entry["stage"] for entry in metrics)
  lines = {
    key: {stage: _series.series(metrics, stage, key) for stage in stages}
    for key in ("test_accuracy", "loss")
  }
  lines = {
    key: {stage: line for stage, line in found.items() if line.x.size}
    for key, found in lines.items()
  }
  lines = {key: found for key, found in lines.items() if found}
  if not lines:
    raise _canvas.NothingToDrawError(
      "metrics: expected test_accuracy or loss by epoch, got none; train for at "
      "least one epoch"
    )
  figure, grid = _canvas.new_figure(
    1,
    len(lines),
    title="Course of training",
    width=max(7.0, 6.0 * len(lines)),
    height=5.0,
  )
  titles = _series.network_titles(metrics, results)
  styles = styles or _colors.styles_of_run(metrics, results)
  drawn = [stage for stage in stages if any(stage in found for found in lines.values())]
  student = _bold(drawn, styles)
  for axes, (key, found) in zip(grid.flat, lines.items(), strict=True):
    _draw_course(axes, key, found, styles, student)
  entries = [
    _legends.Entry(
      f"{titles[stage]} (bold)" if stage == student else titles[stage],
      styles[stage],
      bold=stage == student,
    )
    for stage in drawn
  ]
  meaning = _legends.Meaning(
    bold="the student" if student else "",
    band=_average.BAND if _canvas.has_bands(figure) else "",
  )
  _legends.below(figure, entries, meaning)
  return figure


def _draw_course(
  axes: "Axes",
  key: str,
  lines: dict[str, _series.Series],
  styles: Styles,
  student: str | None,
) -> None:
  accuracy = key == "test_accuracy"
  for stage, line in lines.items():
    scaled = line.times(100) if accuracy else line
    _canvas.draw_line(axes, scaled, style=styles[stage], bold=stage == student)
  if accuracy:
    _canvas.end_at(axes, 100)
  else:
    _canvas.log_scale(axes)
  _canvas.whole_epochs(axes)
  _canvas.name_axes(
    axes,
    title="Test accuracy, where a classifier is trained"
    if accuracy
    else "Training loss, each network its own",
    x=_canvas.EPOCHS,
    y="accuracy, %" if accuracy else "loss",
  )

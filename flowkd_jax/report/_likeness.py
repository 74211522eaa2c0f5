"""The picture of layers: likeness of each student tap to all teacher taps over time."""

import re
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report import _series
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

PREFIX = "cka_pair/"
_MOST_COLUMNS = 4
_ALIKE = _colors.Style(_colors.CHOSEN)
_TITLE = "Teacher layer that each student layer resembles: linear CKA over the epochs"


class _Strip(NamedTuple):
  """Likeness of one student tap to the teacher taps.

  Attributes:
    network: Title of the student.
    tap: The student tap.
    teacher_taps: Teacher taps, from input to output.
    epochs: Epochs trained.
    values: Linear CKA; NaN where it was not recorded.
    learns_from: The teacher tap that it learns from, if it learns.
  """

  network: str
  tap: str
  teacher_taps: list[str]
  epochs: Float[np.ndarray, " epochs"]
  values: Float[np.ndarray, "teacher_taps epochs"]
  learns_from: str | None


def likeness_picture(metrics: MetricLog, results: Results = ()) -> "Figure":
  """Linear CKA of each student tap and every teacher tap over the epochs.

  A panel per student tap: teacher taps from input (top) to output, epochs across;
  darker is more alike. A dot marks the most alike teacher tap of each epoch. The
  teacher tap that the student tap learns from is bold.

  CKA is that of one batch of training images, as `methods` records it beside the steps:
  it is larger than on many images, and comparable between taps of like width only.

  Args:
    metrics: Metrics of `read_metrics`; keys `cka_pair/TAP:TEACHER_TAP`.
    results: Results of `read_results`, for titles and teachers.

  Raises:
    NothingToDrawError: If no likeness of pairs of taps was recorded.
  """
  strips = [
    strip
    for stage in _series.stages_with(metrics, PREFIX)
    for strip in _strips(metrics, results, stage)
  ]
  if not strips:
    raise _canvas.NothingToDrawError(
      "metrics: expected the likeness of pairs of taps (cka_pair/TAP:TEACHER_TAP), got "
      "none; train with diagnostics switched on, from two teacher taps or more"
    )
  columns = min(_MOST_COLUMNS, len(strips))
  rows = -(-len(strips) // columns)
  deepest = max(len(strip.teacher_taps) for strip in strips)
  figure, grid = _canvas.new_figure(
    rows,
    columns,
    title=_TITLE,
    width=max(8.0, 3.4 * columns),
    height=1.2 + (1.0 + 0.3 * deepest) * rows,
  )
  several = len({strip.network for strip in strips}) > 1
  images = [
    _draw(axes, strip, network=several)
    for axes, strip in zip(grid.flat, strips, strict=False)
  ]
  for axes in [*grid.flat][len(strips) :]:
    axes.remove()
  bar = figure.colorbar(images[0], ax=grid[:, -1].tolist(), aspect=12, shrink=0.9)
  bar.set_label("linear CKA", size=10, color=_canvas.QUIET)
  bar.ax.tick_params(labelsize=9)
  meaning = _legends.Meaning(bold="the layer that the student layer learns from")
  dots = _legends.Entry("the most alike teacher layer", _ALIKE, line=False)
  _legends.below(figure, [dots], meaning)
  return figure


def _strips(metrics: MetricLog, results: Results, stage: str) -> list[_Strip]:
  """The strips of a network, from input to output."""
  students = _series.endings(metrics, stage, "cka/")
  teacher = _series.teachers_of(metrics, results).get(stage)
  pairs = {
    (tap, ending.removeprefix(f"{tap}:")): f"{PREFIX}{ending}"
    for ending in _series.endings(metrics, stage, PREFIX)
    for tap in students
    if ending.startswith(f"{tap}:")
  }
  theirs = _in_order(metrics, teacher, {other for _, other in pairs})
  title = _series.network_titles(metrics, results)[stage]
  strips = []
  for tap in students:
    own = _by_epoch(metrics, stage, f"cka/{tap}")
    found = [_by_epoch(metrics, stage, pairs.get((tap, other))) for other in theirs]
    epochs = sorted({epoch for values in found for epoch in values})
    values = np.array([[row.get(epoch, np.nan) for epoch in epochs] for row in found])
    learns = [other for other, row in zip(theirs, found, strict=True) if row == own]
    if epochs:
      learnt = learns[0] if len(learns) == 1 else None
      strips.append(_Strip(title, tap, theirs, np.array(epochs), values, learnt))
  return strips


def _by_epoch(metrics: MetricLog, stage: str, key: str | None) -> dict[float, float]:
  """Values of a key by epochs trained; those that are no numbers are left out."""
  if key is None:
    return {}
  x, y, _ = _series.series(metrics, stage, key)
  return {
    float(epoch): float(value)
    for epoch, value in zip(x, y, strict=True)
    if np.isfinite(value)
  }


def _in_order(metrics: MetricLog, teacher: str | None, taps: set[str]) -> list[str]:
  """Taps of a teacher from input to output, or by name if its flow is unknown."""
  known = []
  if teacher is not None:
    known = [key.split("/", 1)[-1] for key in _series.endings(metrics, teacher, "qmi/")]
  depths = {tap: depth for depth, tap in enumerate(dict.fromkeys(known))}

  def position(tap: str) -> tuple[int, list[Any]]:
    numbers = [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", tap)]
    return depths.get(tap, len(depths)), numbers

  return sorted(taps, key=position)


def _draw(axes: "Axes", strip: _Strip, *, network: bool) -> Any:
  """The image of a strip, a column per epoch, and the most alike taps."""
  axes.grid(visible=False)
  taps = len(strip.teacher_taps)
  image = axes.pcolormesh(
    _borders(strip.epochs),
    np.arange(taps + 1) - 0.5,
    strip.values,
    cmap="Blues",
    vmin=0,
    vmax=1,
  )
  known = np.isfinite(strip.values).any(axis=0)
  nearest = np.nanargmax(strip.values[:, known], axis=0)
  axes.plot(
    strip.epochs[known],
    nearest,
    color=_ALIKE.color,
    linestyle="none",
    marker=_ALIKE.mark,
    markersize=4 if len(strip.epochs) <= 30 else 2.5,
  )
  axes.set_ylim(taps - 0.5, -0.5)
  axes.set_yticks(range(taps), strip.teacher_taps)
  for tap, label in zip(strip.teacher_taps, axes.get_yticklabels(), strict=True):
    label.set_fontweight("bold" if tap == strip.learns_from else "normal")
  _canvas.whole_ticks(axes)
  subtitle = strip.network if network else ""
  _canvas.name_axes(axes, title=strip.tap, subtitle=subtitle, x=_canvas.EPOCHS)
  return image


def _borders(epochs: Float[np.ndarray, " epochs"]) -> Float[np.ndarray, " borders"]:
  """Limits of the columns: half-way between epochs."""
  between = (epochs[1:] + epochs[:-1]) / 2
  first = epochs[0] - ((between[0] - epochs[0]) if len(between) else 0.5)
  last = epochs[-1] + ((epochs[-1] - between[-1]) if len(between) else 0.5)
  return np.concatenate([[first], between, [last]])

"""The picture of information flow: quadratic mutual information by tap and epoch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np

from flowkd_jax.report import _average
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report import _series
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_KERNELS = {"cosine": "cosine kernel", "student_t": "Student-t kernel"}


class _Row(NamedTuple):
  """A row of panels: what precedes the tap in its keys, what it is, in which unit."""

  prefix: str
  label: str
  factor: int = 1

  @property
  def has_goals(self) -> bool:
    """Returns whether it shows a property of networks, not of pairs."""
    return self.prefix != _ALIKE.prefix


_ALIKE = _Row("cka/", "linear CKA with the teacher")


class _Flow(NamedTuple):
  """Values to draw.

  Attributes:
    logs: Metrics of each stage: looking through all of them for every line is slow.
    kernels: Kernels that any network was measured with.
    taps: Taps of each network, from input to output.
    teachers: Name of the teacher of each network that has one.
    focus: The network whose taps are the columns.
    styles: Colour and mark of each network.
    titles: Title of each network.
  """

  logs: Mapping[str, MetricLog]
  kernels: list[str]
  taps: dict[str, list[str]]
  teachers: dict[str, str]
  focus: str
  styles: Mapping[str, _colors.Style]
  titles: dict[str, str]


def flow_picture(
  metrics: MetricLog,
  results: Results = (),
  *,
  focus: str | None = None,
  styles: Mapping[str, _colors.Style] | None = None,
) -> "Figure":
  """Information of each tap about the labels over the epochs, in every network.

  The picture has a column per tap and a row per kernel. Further rows show the
  similarity of each tap to the teacher tap that it learns from, if it was recorded. A
  dashed line is the final value of the teacher, in the panels of the taps that are
  matched to it. Networks with other taps appear at the same relative depth. An imported
  network, which was measured only once, is shown only as a dashed line.

  Args:
    metrics: Metrics of `read_metrics`; keys `qmi/KERNEL/TAP` and `cka/TAP`.
    results: Results of `read_results`, for titles and teachers.
    focus: The network whose taps are the columns and whose line is bold; by default
      the last that learns.
    styles: Style of each network, from `network_styles`; by default that of a run.

  Raises:
    NothingToDrawError: If no quadratic mutual information was recorded.
    ValueError: If it was not recorded of the network `focus`.
  """
  flow = _measured_flow(metrics, results, focus)
  if styles is not None:
    flow = flow._replace(styles=styles)
  rows = _rows(flow)
  figure, grid = _canvas.new_figure(
    len(rows),
    len(flow.taps[flow.focus]),
    title="Information flow: mutual information (QMI) of each tap and the labels",
    width=max(8.0, 3.0 * len(flow.taps[flow.focus])),
    height=1.4 + 2.5 * len(rows),
    share_x=True,
  )
  for (row, column), axes in np.ndenumerate(grid):
    _draw_panel(axes, flow, rows[row], column)
    _canvas.name_axes(
      axes,
      title="" if row else flow.taps[flow.focus][column],
      subtitle="" if row else _other_names(flow, column),
      x=_canvas.EPOCHS if row == len(rows) - 1 else "",
      y="" if column else rows[row].label,
    )
  _canvas.align_titles(grid[0])
  lines, goals = _lines(flow), _goals(flow)
  meaning = _legends.Meaning(
    bold="the network whose taps are the columns" if len(lines) > 1 else "",
    dashed="a teacher after its training, where taps learn from it" if goals else "",
    band=_average.BAND if _canvas.has_bands(figure) else "",
  )
  _legends.below(figure, [*lines, *goals], meaning)
  return figure


def _rows(flow: _Flow) -> list[_Row]:
  rows = []
  for kernel in flow.kernels:
    factor = _readable_factor(flow, kernel)
    times = f"{factor:,} × " if factor > 1 else ""
    label = f"{times}QMI, {_KERNELS.get(kernel, f'{kernel} kernel')}"
    rows.append(_Row(f"qmi/{kernel}/", label, factor))
  columns = range(len(flow.taps[flow.focus]))
  # A row whose panels have no line is left out: CKA may be known of other taps only.
  alike = any(
    len(_line(flow, _ALIKE, column, stage).x)
    for column in columns
    for stage in _drawn(flow)
  )
  return [*rows, _ALIKE] if alike else rows


def _lines(flow: _Flow) -> list[_legends.Entry]:
  """Entries of the legend for the lines; the bold one says so if there are others."""
  stages = _drawn(flow)
  return [
    _legends.Entry(
      f"{flow.titles[stage]} (bold)"
      if stage == flow.focus and len(stages) > 1
      else flow.titles[stage],
      flow.styles[stage],
      bold=stage == flow.focus,
    )
    for stage in stages
  ]


def _drawn(flow: _Flow) -> list[str]:
  """Networks that have a line; what is only a goal, measured once, has none."""
  goals = flow.teachers.values()
  return [s for s in flow.taps if s not in goals or len(flow.logs[s]) > 1]


def _goals(flow: _Flow) -> list[_legends.Entry]:
  """Entries of the legend for the ends of teachers."""
  students: dict[str, list[str]] = {}
  for student, teacher in flow.teachers.items():
    students.setdefault(teacher, []).append(student)
  return [
    _legends.Entry(
      f"{_short(flow, teacher)} at its end: goal of "
      f"{_few([_short(flow, name) for name in names])}",
      flow.styles[teacher],
      dashed=True,
    )
    for teacher, names in students.items()
  ]


def _short(flow: _Flow, stage: str) -> str:
  """The name of a network where its title begins with it, otherwise the title."""
  title = flow.titles[stage]
  return stage if title.startswith(stage) else title


def _few(names: list[str]) -> str:
  """Names, or how many there are."""
  return " and ".join(names) if len(names) < 3 else f"{len(names)} networks"


def _measured_flow(metrics: MetricLog, results: Results, focus: str | None) -> _Flow:
  titles = _series.network_titles(metrics, results)
  pairs = {
    stage: [key.split("/", 1) for key in _series.endings(metrics, stage, "qmi/")]
    for stage in _series.stages_with(metrics, "qmi/")
  }
  if not pairs:
    raise _canvas.NothingToDrawError(
      "metrics: expected the quadratic mutual information of taps (qmi/KERNEL/TAP), "
      "got none; train with its measurement turned on"
    )
  kernels = dict.fromkeys(kernel for found in pairs.values() for kernel, _ in found)
  taps = {
    stage: list(dict.fromkeys(tap for _, tap in found))
    for stage, found in pairs.items()
  }
  teachers = {
    student: teacher
    for student, teacher in _series.teachers_of(metrics, results).items()
    if student in taps and teacher in taps
  }
  if focus is None:
    focus = [stage for stage in taps if stage in teachers or not teachers][-1]
  if focus not in taps:
    raise ValueError(
      f"focus: expected a network whose information flow was recorded, one of "
      f"{', '.join(taps)}, got {focus!r}"
    )
  styles = _colors.styles_of_run(metrics, results)
  logs: dict[str, list[Mapping[str, Any]]] = {stage: [] for stage in taps}
  for entry in metrics:
    if entry["stage"] in taps:
      logs[entry["stage"]].append(entry)
  return _Flow(logs, list(kernels), taps, teachers, focus, styles, titles)


def _readable_factor(flow: _Flow, kernel: str) -> int:
  """1, 1,000 or 1,000,000: what brings the largest value of a kernel above 1/2."""
  keys = {f"qmi/{kernel}/{tap}" for taps in flow.taps.values() for tap in taps}
  lines = [
    _series.series(flow.logs[stage], stage, key) for stage in flow.taps for key in keys
  ]
  values = np.abs(np.concatenate([line.y for line in lines]))
  largest = values[np.isfinite(values)].max(initial=0)
  return next((f for f in (1, 1000) if f * largest > 0.5), 1_000_000 if largest else 1)


def _draw_panel(axes: "Axes", flow: _Flow, row: _Row, column: int) -> None:
  """All networks at the tap of this column, and the goals of those that learn."""

  def line(stage):
    return _line(flow, row, column, stage)

  for stage in _drawn(flow):
    style, bold = flow.styles[stage], stage == flow.focus
    if len(line(stage).x):
      _canvas.draw_line(axes, line(stage), style=style, bold=bold)
  goals = {}
  for student, teacher in flow.teachers.items() if row.has_goals else ():
    tap = _tap_beside(flow, column, student)
    if tap in (_series.endings(flow.logs[student], student, "loss/") or [tap]):
      goals[teacher] = _series.last(line(teacher))
  for teacher, level in goals.items():
    _canvas.draw_level(axes, level, color=flow.styles[teacher].color)
  _canvas.plain_scale(axes, most=None if row.has_goals else 1)
  _canvas.whole_epochs(axes)


def _line(flow: _Flow, row: _Row, column: int, stage: str) -> _series.Series:
  """Values of a network in a panel; empty where they were not recorded."""
  key = f"{row.prefix}{_tap_beside(flow, column, stage)}"
  return _series.series(flow.logs[stage], stage, key).times(row.factor)


def _other_names(flow: _Flow, column: int) -> str:
  """Networks whose tap in this column has another name."""
  own = flow.taps[flow.focus][column]
  found = {stage: _tap_beside(flow, column, stage) for stage in flow.taps}
  return ", ".join(
    f"{_short(flow, stage).partition(',')[0]}: {tap}"
    for stage, tap in found.items()
    if tap != own
  )


def _tap_beside(flow: _Flow, column: int, stage: str) -> str:
  """The tap that a network has in a column: of the same name, or as deep."""
  columns, taps = flow.taps[flow.focus], flow.taps[stage]
  if columns[column] in taps:
    return columns[column]
  return taps[_series.corresponding(column, len(columns), len(taps))]

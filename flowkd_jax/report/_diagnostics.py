"""The picture of diagnostics: gradients, likeness to the teacher, dead units."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report import _series
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_ROWS = {
  "gradient/": "norm of the gradient",
  "cka/": "linear CKA with the teacher",
  "dead/": "dead units, %",
}


def diagnostics_picture(
  metrics: MetricLog,
  results: Results = (),
  *,
  styles: Mapping[str, _colors.Style] | None = None,
) -> "Figure":
  """Gradient of each loss term, likeness and dead units of each tap, over the epochs.

  A column per network that was trained with several terms or from a teacher; if there
  is none, per network.

  Args:
    metrics: Metrics of `read_metrics`; keys `gradient/TERM`, `cka/TAP`, `dead/TAP`.
    results: Results of `read_results`, for titles.
    styles: Style of each network, from `network_styles`; by default that of a run.

  Raises:
    NothingToDrawError: If there is no diagnostics.
  """
  stages = _series.stages_with(metrics, "gradient/")
  stages = stages or _series.stages_with(metrics, "dead/")
  if not stages:
    raise _canvas.NothingToDrawError(
      "metrics: expected diagnostics (gradient/TERM, cka/TAP, dead/TAP), got none; "
      "train with diagnostics switched on"
    )
  rows = [
    prefix
    for prefix in _ROWS
    if any(_series.endings(metrics, stage, prefix) for stage in stages)
  ]
  titles = _series.network_titles(metrics, results)
  styles = styles or _colors.styles_of_run(metrics, results)
  figure, grid = _canvas.new_figure(
    len(rows),
    len(stages),
    title="Diagnostics: gradient of each term, likeness and dead units of each tap",
    width=max(8.0, 6.0 * len(stages)),
    height=1.0 + 2.6 * len(rows),
    share_x=True,
  )
  lines = _colors.term_styles(*_series.terms(metrics))
  for (row, column), axes in np.ndenumerate(grid):
    prefix, stage = rows[row], stages[column]
    _draw(axes, metrics, stage, prefix, lines)
    _canvas.name_axes(
      axes,
      title="" if row else titles[stage],
      x=_canvas.EPOCHS if row == len(rows) - 1 else "",
      y="" if column else _ROWS[prefix],
      color=styles[stage].color,
    )
  _legends.bands(figure)
  return figure


def _draw(
  axes: "Axes",
  metrics: MetricLog,
  stage: str,
  prefix: str,
  styles: Mapping[str, _colors.Style],
) -> None:
  names = _series.endings(metrics, stage, prefix)
  for name in names:
    line = _series.series(metrics, stage, f"{prefix}{name}")
    if prefix == "dead/":
      line = line.times(100)
    _canvas.draw_line(axes, line, style=styles[name], label=name)
  if prefix == "gradient/":
    _canvas.log_scale(axes)
  elif prefix == "cka/":
    axes.set_ylim(0, 1)
  else:
    axes.set_ylim(-2, 102)
  _canvas.whole_epochs(axes)
  if names:
    _legends.beside(axes)

"""The picture of time: seconds of steps, compiling, measuring, and waiting for data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report._read import Results

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

# Seconds by part; parts as in "times" of a network of results.json.
Times = Mapping[str, float]
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def time_picture(bars: Mapping[str, Times], *, note: str = "") -> "Figure":
  """Time of training by part, a bar for each stage or run.

  Args:
    bars: Seconds by part for each bar, by its name: "steps", "compiling", "measuring",
      "waiting for data" and "other".
    note: Meaning of the bars, such as "mean over seeds".

  Raises:
    NothingToDrawError: If no time was recorded.

  Example:
    >>> figure = time_picture({"student": {"steps": 50.0, "compiling": 4.0}})
    >>> figure.axes[0].get_xlabel()
    'seconds'
  """
  bars = {name: times for name, times in bars.items() if sum(times.values()) > 0}
  if not bars:
    raise _canvas.NothingToDrawError(
      "bars: expected times by part of at least one stage, got none; jobs keep them in "
      "results.json since version 0.2"
    )
  figure, grid = _canvas.new_figure(
    1,
    1,
    title="Time of training by part",
    width=9.0,
    height=1.9 + 0.32 * len(bars),
  )
  axes = grid[0, 0]
  longest = max(sum(times.values()) for times in bars.values())
  unit, seconds = next(
    (unit, size) for unit, size in _UNITS if longest >= 2 * size or size == 1
  )
  parts = [part for part in _colors.PARTS if any(_of(t, part) for t in bars.values())]
  _draw(axes, bars, parts, seconds)
  _canvas.name_axes(axes, title=note, x=unit)
  _legends.below(
    figure,
    [
      _legends.Entry(part, _colors.Style(_colors.PARTS[part]), area=True)
      for part in parts
    ],
  )
  return figure


def _draw(
  axes: "Axes", bars: Mapping[str, Times], parts: list[str], seconds: int
) -> None:
  places = np.arange(len(bars))
  left = np.zeros(len(bars))
  for part in parts:
    widths = np.array([_of(times, part) / seconds for times in bars.values()])
    axes.barh(places, widths, left=left, height=0.7, color=_colors.PARTS[part])
    left += widths
  for place, total in zip(places, left, strict=True):
    axes.annotate(
      f"{total:.3g}",
      (total, place),
      (4, 0),
      textcoords="offset points",
      va="center",
      size=9,
      color=_canvas.QUIET,
    )
  axes.grid(visible=False, axis="y")
  axes.set_yticks(places, [*bars])
  axes.set_ylim(len(bars) - 0.4, -0.6)
  axes.set_xlim(0, 1.1 * left.max())


def _of(times: Times, part: str) -> float:
  """Seconds of a part; parts of a later version count as "other"."""
  if part != "other":
    return times.get(part, 0.0)
  known = [name for name in _colors.PARTS if name != part]
  return sum(seconds for name, seconds in times.items() if name not in known)


def times_of_run(results: Results) -> dict[str, Times]:
  """Time of each stage by its title; networks of one stage share it.

  Args:
    results: Results of `read_results`, with "times" if they are of version 0.2.
  """
  stages: dict[str, tuple[str, Times]] = {}
  for network in results:
    stage, _, exported = network["name"].partition("/")
    title = network.get("title") or network["name"]
    if network.get("times"):
      title = title.removesuffix(f", {exported}") if exported else title
      stages.setdefault(stage, (title, network["times"]))
  return dict(stages.values())

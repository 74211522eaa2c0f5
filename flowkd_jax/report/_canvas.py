"""Style of all pictures: figures, axes, lines, scales.

Matplotlib is imported inside functions, because the import takes a second. pyplot is
not used, because it has a global state and a backend.
"""

import functools
import io
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from jaxtyping import Float

from flowkd_jax.report import _colors
from flowkd_jax.report import _texts
from flowkd_jax.report._series import Series

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

EPOCHS = "epochs trained"

_PIXELS_PER_INCH = 150

TEXT = "#262626"
QUIET = "#6F6F6F"
_GRID = "#E4E4E4"


class NothingToDrawError(ValueError):
  """Error for a picture whose values were not recorded."""


def new_figure(
  rows: int,
  columns: int,
  *,
  title: str,
  width: float = 12.0,
  height: float = 5.0,
  height_ratios: Sequence[float] | None = None,
  share_x: bool = False,
  share_y: bool = False,
) -> "tuple[Figure, Any]":
  """A figure with `rows` x `columns` plain axes; sizes in inches."""
  from matplotlib.layout_engine import ConstrainedLayoutEngine

  layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03)
  figure = _figure_class()(figsize=(width, height), layout=layout)
  heading = "\n".join(_texts.wrapped(title, _texts.BOLD * 14, 72 * width - 16))
  figure.suptitle(heading, x=0.008, ha="left", size=14, weight="bold", color=TEXT)
  grid = figure.subplots(
    rows,
    columns,
    squeeze=False,
    sharex="col" if share_x else "none",
    sharey="row" if share_y else "none",
    height_ratios=height_ratios,
  )
  for axes in grid.flat:
    _strip(axes)
  return figure, grid


@functools.cache
def _figure_class() -> "type[Figure]":
  from matplotlib.figure import Figure

  class Picture(Figure):
    """Figure that notebooks display, although it was made without pyplot."""

    def _repr_png_(self) -> bytes:
      png = io.BytesIO()
      self.savefig(png, format="png")
      return png.getvalue()

  return Picture


def _strip(axes: "Axes") -> None:
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(QUIET)
  axes.tick_params(colors=QUIET, labelcolor=TEXT, labelsize=9, length=3)
  axes.grid(color=_GRID, linewidth=0.8)
  axes.set_axisbelow(True)


def name_axes(
  axes: "Axes",
  *,
  title: str = "",
  subtitle: str = "",
  x: str = "",
  y: str = "",
  color: str = TEXT,
) -> None:
  """Title at the left, quiet subtitle at the right, quiet names of the axes.

  If both do not fit on one line, the subtitle is below the title, on as many lines as
  it needs.
  """
  width = _texts.axes_points(axes)
  title = "\n".join(_texts.wrapped(title, _texts.BOLD * 11, width))
  if subtitle and _texts.text_points(f"{title}  {subtitle}", _texts.BOLD * 11) > width:
    lines = _texts.wrapped(subtitle, 9, width)
    title, subtitle = title + "\n" * len(lines), "\n".join(lines)
  axes.set_title(title, loc="left", size=11, color=color, weight="bold")
  axes.set_title(subtitle, loc="right", size=9, color=QUIET)
  axes.set_xlabel(x, size=10, color=QUIET)
  axes.set_ylabel(y, size=10, color=QUIET)


def align_titles(row: "Iterable[Axes]") -> None:
  """Brings the titles of panels beside one another to one height.

  Args:
    row: Panels that `name_axes` has named.
  """
  row = list(row)
  lines = [axes.get_title(loc="left").count("\n") for axes in row]
  for axes, own in zip(row, lines, strict=True):
    title = axes.get_title(loc="left") + "\n" * (max(lines) - own)
    axes.set_title(title, loc="left", size=11, color=TEXT, weight="bold")


def draw_line(
  axes: "Axes",
  line: Series,
  *,
  style: _colors.Style,
  label: str = "",
  bold: bool = False,
) -> None:
  """A line, with a mark at each point where these are few, and its band."""
  points = len(line.x)
  mark = mark_of_line(style, points=points)
  axes.plot(
    line.x,
    line.y,
    color=style.color,
    label=label,
    linewidth=2.4 if bold else 1.5,
    marker=mark,
    markersize=3.5 if mark in ("o", "None") else 5,
    markevery=max(1, points // _MARKS),
    zorder=3 if bold else 2,
  )
  if line.band is not None:
    axes.fill_between(line.x, *line.band, color=style.color, alpha=0.12, linewidth=0)


# Most marks on a line of many points; a line of no more has one at each.
_MARKS = 20


def mark_of_line(style: _colors.Style, *, points: int | None) -> str:
  """Mark on a line of that many points, or in the legend if None.

  Plain styles have marks only where points are few; a mark that tells networks apart
  is always there.
  """
  plain = style.mark == "o"
  return "None" if plain and (points is None or points > _MARKS) else style.mark


def has_bands(figure: "Figure") -> bool:
  """Returns whether a line of the figure has a band."""
  from matplotlib.collections import PolyCollection

  return any(
    isinstance(drawn, PolyCollection)
    for axes in figure.axes
    for drawn in axes.collections
  )


def draw_level(axes: "Axes", value: float, *, color: str) -> None:
  """A dashed horizontal line."""
  axes.axhline(value, color=color, linewidth=1.4, linestyle=(0, (5, 3)), zorder=2.5)


def whole_epochs(axes: "Axes") -> None:
  """Start the axis before training, with ticks at whole epochs only."""
  axes.update_datalim([(0, 0), (1, 0)], updatey=False)
  axes.autoscale_view(scaley=False)
  whole_ticks(axes)


def whole_ticks(axes: "Axes") -> None:
  """Marks whole epochs only."""
  from matplotlib.ticker import MaxNLocator

  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))


def plain_scale(axes: "Axes", *, most: float | None = None) -> None:
  """Set a linear scale with few ticks, from zero unless the values are far from it.

  `most` is the largest possible value, such as 100 %; the axis ends there.
  """
  from matplotlib.ticker import FuncFormatter
  from matplotlib.ticker import MaxNLocator

  values = _drawn_values(axes)
  if not values.size or 0 <= values.min() <= values.max() / 2:
    axes.set_ylim(bottom=0)
  if most is not None:
    end_at(axes, most)
  axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
  axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))


def end_at(axes: "Axes", most: float) -> None:
  """End an axis at the largest possible value, such as 100 %."""
  if axes.get_ylim()[1] > most:
    axes.set_ylim(top=most)


def log_scale(axes: "Axes") -> None:
  """Set a logarithmic scale, or a linear one from zero if the values span too little.

  On the logarithmic scale, values that are not positive leave gaps.
  """
  from matplotlib.ticker import FuncFormatter
  from matplotlib.ticker import LogLocator
  from matplotlib.ticker import NullFormatter

  values = _drawn_values(axes)
  positive = values[values > 0]
  span = positive.max() / positive.min() if positive.size else 1.0
  if span < 4:
    axes.set_ylim(bottom=values.min(initial=0))
    return
  axes.set_yscale("log", nonpositive="mask")
  ticks = (1,) if span > 100 else (1, 2, 5) if span > 10 else (1, 2, 3, 4, 6, 8)
  axes.yaxis.set_major_locator(LogLocator(subs=ticks))
  axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))
  axes.yaxis.set_minor_formatter(NullFormatter())


def _drawn_values(axes: "Axes") -> Float[np.ndarray, " values"]:
  lines = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
  values = np.concatenate([[], *lines])
  return values[np.isfinite(values)]


def _plain_number(value: float, position: int | None = None) -> str:
  del position
  return f"{value:g}".replace("-", "−")


def save_figure(figure: "Figure", path: Path) -> None:
  """Writes a PNG of some 1800 pixels width."""
  figure.savefig(path, dpi=_PIXELS_PER_INCH)

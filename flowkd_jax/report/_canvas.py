"""Style of all pictures: figures, axes, lines, legends, colours of networks.

Matplotlib is imported inside functions, as it takes a second that only those who
draw should spend; and without pyplot, which has a global state and a backend.
"""

import functools
import io
import itertools
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flowkd_jax.report._series import Series

if TYPE_CHECKING:
  from matplotlib.artist import Artist
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

EPOCHS = "epochs trained"

_PIXELS_PER_INCH = 150

# Okabe and Ito's colours, which colour-blind people tell apart too. Networks of one
# architecture have neighbouring hues; the one trained on labels has the lighter.
_COLOURS = {
  "teacher": "#404040",
  "student_labels": "#E69F00",
  "auxiliary_labels": "#56B4E9",
  "auxiliary": "#0072B2",
  "student": "#D55E00",
}
_SPARE_COLOURS = (
  "#009E73",
  "#CC79A7",
  "#8C6BB1",
  "#A6761D",
  "#1B4F72",
  "#D62728",
  "#7FB800",
  "#17BECF",
)

# Width of bold text by that of plain text of the same size.
_BOLD = 1.15

_TEXT = "#262626"
_QUIET = "#6F6F6F"
_GRID = "#E4E4E4"


class LegendEntry(NamedTuple):
  """A line of a legend."""

  label: str
  colour: str
  dashed: bool = False
  bold: bool = False


class NothingToDrawError(ValueError):
  """Error for a picture whose values were not recorded."""


def network_colours(names: Iterable[str]) -> dict[str, str]:
  """A colour for each network, the same in every picture."""
  names = dict.fromkeys(names)
  unused = [colour for name, colour in _COLOURS.items() if name not in names]
  spare = itertools.cycle([*_SPARE_COLOURS, *unused])
  return {name: _COLOURS.get(name) or next(spare) for name in names}


def tap_colours(taps: Iterable[str]) -> dict[str, str]:
  """A colour for each tap, from light at the input to dark at the output."""
  import matplotlib
  from matplotlib.colors import to_hex

  taps = list(taps)
  shades = np.linspace(0.82, 0.05, len(taps)) if len(taps) > 1 else [0.05]
  viridis = matplotlib.colormaps["viridis"]
  return {
    tap: to_hex(viridis(float(shade))) for tap, shade in zip(taps, shades, strict=True)
  }


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
  heading = "\n".join(_wrapped(title, _BOLD * 14, 72 * width - 16))
  figure.suptitle(heading, x=0.008, ha="left", size=14, weight="bold", color=_TEXT)
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
    """Shows itself in notebooks, which by themselves show only pyplot's figures."""

    def _repr_png_(self) -> bytes:
      png = io.BytesIO()
      self.savefig(png, format="png")
      return png.getvalue()

  return Picture


def _strip(axes: "Axes") -> None:
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(_QUIET)
  axes.tick_params(colors=_QUIET, labelcolor=_TEXT, labelsize=9, length=3)
  axes.grid(color=_GRID, linewidth=0.8)
  axes.set_axisbelow(True)


def name_axes(
  axes: "Axes",
  *,
  title: str = "",
  subtitle: str = "",
  x: str = "",
  y: str = "",
  colour: str = _TEXT,
) -> None:
  """Title at the left, quiet subtitle at the right, quiet names of the axes.

  Where both do not fit side by side the subtitle stands below the title, on as many
  lines as it needs.
  """
  width = _axes_points(axes)
  title = "\n".join(_wrapped(title, _BOLD * 11, width))
  if subtitle and _text_points(f"{title}  {subtitle}", _BOLD * 11) > width:
    lines = _wrapped(subtitle, 9, width)
    title, subtitle = title + "\n" * len(lines), "\n".join(lines)
  axes.set_title(title, loc="left", size=11, color=colour, weight="bold")
  axes.set_title(subtitle, loc="right", size=9, color=_QUIET)
  axes.set_xlabel(x, size=10, color=_QUIET)
  axes.set_ylabel(y, size=10, color=_QUIET)


def draw_line(
  axes: "Axes",
  line: Series,
  *,
  colour: str,
  label: str = "",
  bold: bool = False,
) -> None:
  """A line, with a mark at each point where these are few, and its band."""
  axes.plot(
    line.x,
    line.y,
    color=colour,
    label=label,
    linewidth=2.4 if bold else 1.5,
    marker="o",
    markersize=3.5 if len(line.x) <= 20 else 0,
    zorder=3 if bold else 2,
  )
  if line.band is not None:
    axes.fill_between(line.x, *line.band, color=colour, alpha=0.12, linewidth=0)


def draw_level(axes: "Axes", value: float, *, colour: str) -> None:
  """A dashed horizontal line."""
  axes.axhline(value, color=colour, linewidth=1.4, linestyle=(0, (5, 3)), zorder=2.5)


def whole_epochs(axes: "Axes") -> None:
  """Begins before training and marks whole epochs only."""
  from matplotlib.ticker import MaxNLocator

  axes.update_datalim([(0, 0), (1, 0)], updatey=False)
  axes.autoscale_view(scaley=False)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))


def plain_scale(axes: "Axes", *, most: float | None = None) -> None:
  """Linear with few ticks, from zero unless that would squeeze what is seen.

  `most` is the largest value that there can be, such as 100 %: the axis ends there.
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
  """Ends an axis at the largest value that there can be, such as 100 %."""
  if axes.get_ylim()[1] > most:
    axes.set_ylim(top=most)


def log_scale(axes: "Axes") -> None:
  """Logarithmic, or linear from zero if the values span too little for that.

  On the logarithmic scale values that are not positive leave gaps.
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


def legend_below(figure: "Figure", entries: Iterable[LegendEntry]) -> None:
  """Under all axes, the meaning of lines, in as many columns as fit in the figure."""
  entries = list(entries)
  width = 72 * figure.get_figwidth() - 2 * _LEGEND_MARGIN
  columns = next(n for n in (3, 2, 1) if n == 1 or _legend_points(entries, n) < width)
  # More than two rows of a legend, or lines of titles, take no room from the panels.
  lines = max(axes.get_title(loc="left").count("\n") for axes in figure.axes)
  rows = -(-len(entries) // columns)
  figure.set_figheight(figure.get_figheight() + 0.2 * (max(0, rows - 2) + lines))
  room = width - _LEGEND_HANDLE if columns == 1 else float("inf")
  wrapped = ["\n".join(_wrapped(entry.label, 10, room)) for entry in entries]
  figure.legend(
    handles=[
      _handle(entry._replace(label=label))
      for entry, label in zip(entries, wrapped, strict=True)
    ],
    loc="outside lower left",
    ncols=columns,
    frameon=False,
    fontsize=10,
    labelcolor=_TEXT,
  )


# Points to both sides of a legend, and those of a handle and the spaces around it.
_LEGEND_MARGIN, _LEGEND_HANDLE = 10, 52


def _legend_points(entries: Sequence[LegendEntry], columns: int) -> float:
  """Width of a legend in points; it is filled column by column."""
  rows = -(-len(entries) // columns)
  parts = [entries[i : i + rows] for i in range(0, len(entries), rows)]
  return sum(
    _LEGEND_HANDLE + max(_text_points(entry.label, 10) for entry in part)
    for part in parts
  )


def _axes_points(axes: "Axes") -> float:
  """Width of axes in points before the layout is known, tick labels left out."""
  place, figure = axes.get_subplotspec(), axes.get_figure()
  if place is None or figure is None:
    return float("inf")
  inches = figure.get_figure(root=True).get_figwidth()
  return 72 * inches / place.get_gridspec().ncols - 40


def _text_points(text: str, size: float) -> float:
  """Width of a line of text in points."""
  from matplotlib.textpath import TextPath

  return TextPath((0, 0), text, size=size).get_extents().width if text.strip() else 0.0


def _wrapped(text: str, size: float, width: float) -> list[str]:
  """Lines that are not wider than a number of points, broken at spaces if possible."""
  lines = [""]
  for word in text.split():
    longer = f"{lines[-1]} {word}".strip()
    if lines[-1] and _text_points(longer, size) > width:
      lines.append(word)
    else:
      lines[-1] = longer
    while len(lines[-1]) > 1 and (points := _text_points(lines[-1], size)) > width:
      fitting = max(1, int(len(lines[-1]) * width / points))  # a path without spaces
      lines[-1:] = [lines[-1][:fitting], lines[-1][fitting:]]
  return lines


def legend_beside(axes: "Axes") -> None:
  """To the right of the axes, in the order of drawing."""
  axes.legend(
    loc="upper left",
    bbox_to_anchor=(1.0, 1.02),
    frameon=False,
    fontsize=9,
    labelcolor=_TEXT,
    handlelength=1.2,
    borderaxespad=0.2,
  )


def legend_inside(axes: "Axes", *, title: str, low: bool) -> None:
  """In the lower left or the upper right corner."""
  axes.legend(
    loc="lower left" if low else "upper right",
    title=title,
    alignment="left",
    fontsize=9,
    title_fontsize=9,
    labelcolor=_TEXT,
    facecolor="white",
    edgecolor="none",
    framealpha=0.85,
  )


def _handle(entry: LegendEntry) -> "Artist":
  from matplotlib.lines import Line2D

  return Line2D(
    [],
    [],
    color=entry.colour,
    linestyle="--" if entry.dashed else "-",
    linewidth=3.2 if entry.bold else 2,
    label=entry.label,
  )


def save_figure(figure: "Figure", path: Path) -> None:
  """Writes a PNG of some 1800 pixels width."""
  figure.savefig(path, dpi=_PIXELS_PER_INCH)

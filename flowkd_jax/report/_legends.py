"""Legends of pictures: meaning of lines, and of bold, dashes and bands."""

import itertools
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

from flowkd_jax.report import _average
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _texts

if TYPE_CHECKING:
  from matplotlib.artist import Artist
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure


class Entry(NamedTuple):
  """A line of a legend.

  Attributes:
    label: Text of the line.
    style: Colour and mark.
    dashed: True if the line is dashed.
    bold: True if the line is bold.
    line: True if there is a line, or marks alone.
    area: True if there is a filled area in place of a line.
  """

  label: str
  style: _colors.Style
  dashed: bool = False
  bold: bool = False
  line: bool = True
  area: bool = False


class Meaning(NamedTuple):
  """Meaning of what a picture shows beside plain lines; "" for what it has not.

  Attributes:
    bold: Meaning of a bold line.
    dashed: Meaning of dashed lines.
    band: Meaning of bands around lines.
    mark: Meaning of marks.
    line: Meaning of the length of lines.
  """

  bold: str = ""
  dashed: str = ""
  band: str = ""
  mark: str = ""
  line: str = ""

  @property
  def text(self) -> str:
    """A sentence for each, such as "Bold: the student."."""
    meanings = self._asdict().items()
    return " ".join(f"{what.capitalize()}: {text}." for what, text in meanings if text)


_NOTHING = Meaning()
# Space of a line of text, in inches.
_LINE_HEIGHT = 0.2
# Points to both sides of a legend, and those of a handle and the spaces around it.
_LEGEND_MARGIN, _LEGEND_HANDLE = 10, 52


def below(
  figure: "Figure", entries: Iterable[Entry], meaning: Meaning = _NOTHING
) -> None:
  """Draws the legend under all axes, in as many columns as fit in the figure.

  Args:
    figure: A figure of `_canvas.new_figure` with titles and axes in place.
    entries: Lines of the legend.
    meaning: Meaning of bold, dashes and bands, which stands above the lines.
  """
  entries = list(entries)
  width = 72 * figure.get_figwidth() - 2 * _LEGEND_MARGIN
  columns = next(n for n in (3, 2, 1) if n == 1 or _legend_points(entries, n) < width)
  # More than two rows of a legend, or lines of titles, take no room from the panels.
  lines = max(axes.get_title(loc="left").count("\n") for axes in figure.axes)
  rows = -(-len(entries) // columns)
  said = _texts.wrapped(meaning.text, 9, width) if meaning.text else []
  lines += max(0, rows - 2) + len(said)
  figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * lines)
  room = width - _LEGEND_HANDLE if columns == 1 else float("inf")
  wrapped = ["\n".join(_texts.wrapped(entry.label, 10, room)) for entry in entries]
  legend = figure.legend(
    handles=[
      _handle(entry._replace(label=label))
      for entry, label in zip(entries, wrapped, strict=True)
    ],
    loc="outside lower left",
    ncols=columns,
    frameon=False,
    fontsize=10,
    labelcolor=_canvas.TEXT,
    title="\n".join(said) or None,
    title_fontproperties={"size": 9},
    alignment="left",
  )
  legend.get_title().set_color(_canvas.QUIET)


def _legend_points(entries: Sequence[Entry], columns: int) -> float:
  """Width of a legend in points; the first columns have an entry more if needed."""
  full, rest = divmod(len(entries), columns)
  ends = itertools.accumulate(full + (column < rest) for column in range(columns))
  parts = [entries[start:end] for start, end in itertools.pairwise((0, *ends))]
  return sum(
    _LEGEND_HANDLE + max(_texts.text_points(entry.label, 10) for entry in part)
    for part in parts
    if part
  )


def bands(figure: "Figure") -> None:
  """Says below a figure without a legend there what its bands are, if it has any."""
  if _canvas.has_bands(figure):
    below(figure, [], Meaning(band=_average.BAND))


def beside(axes: "Axes") -> None:
  """Draws a legend to the right of the axes, in the order of drawing."""
  axes.legend(
    loc="upper left",
    bbox_to_anchor=(1.0, 1.02),
    frameon=False,
    fontsize=9,
    labelcolor=_canvas.TEXT,
    handlelength=1.2,
    borderaxespad=0.2,
  )


def inside(axes: "Axes", *, title: str, low: bool) -> None:
  """Draws a legend in the lower left or the upper right corner of the axes."""
  axes.legend(
    loc="lower left" if low else "upper right",
    title=title,
    alignment="left",
    fontsize=9,
    title_fontsize=9,
    labelcolor=_canvas.TEXT,
    facecolor="white",
    edgecolor="none",
    framealpha=0.85,
  )


def _handle(entry: Entry) -> "Artist":
  from matplotlib.lines import Line2D
  from matplotlib.patches import Patch

  if entry.area:
    return Patch(facecolor=entry.style.color, edgecolor="none", label=entry.label)
  mark = _canvas.mark_of_line(entry.style, points=None)
  return Line2D(
    [],
    [],
    color=entry.style.color,
    linestyle="none" if not entry.line else "--" if entry.dashed else "-",
    linewidth=3.2 if entry.bold else 2,
    marker=mark if entry.line else entry.style.mark,
    markersize=5,
    label=entry.label,
  )

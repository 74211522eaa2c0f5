"""Width of texts in pictures before they are drawn, and lines that fit."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Width of bold text by that of plain text of the same size.
BOLD = 1.15
# Letters are moved to whole pixels when they are drawn, which widens lines a little.
_HINTED = 1.03


def axes_points(axes: "Axes") -> float:
  """Width of axes in points before the layout is known, tick labels left out."""
  place, figure = axes.get_subplotspec(), axes.get_figure()
  if place is None or figure is None:
    return float("inf")
  inches = figure.get_figure(root=True).get_figwidth()
  return 72 * inches / place.get_gridspec().ncols - 40


def text_points(text: str, size: float) -> float:
  """Width of a text in points, which is that of its longest line."""
  from matplotlib.font_manager import FontProperties
  from matplotlib.textpath import text_to_path

  # The width that the font says; outlines of the letters would take 50 times as long.
  properties = FontProperties(size=size)
  measure = text_to_path.get_text_width_height_descent
  widths = (measure(line, properties, ismath=False)[0] for line in text.split("\n"))
  return _HINTED * max(widths)


def wrapped(text: str, size: float, width: float) -> list[str]:
  """Lines that are not wider than a number of points, broken at spaces if possible."""
  lines = [""]
  for word in text.split():
    longer = f"{lines[-1]} {word}".strip()
    if lines[-1] and text_points(longer, size) > width:
      lines.append(word)
    else:
      lines[-1] = longer
    while len(lines[-1]) > 1 and (points := text_points(lines[-1], size)) > width:
      fitting = max(1, int(len(lines[-1]) * width / points))  # a path without spaces
      lines[-1:] = [lines[-1][:fitting], lines[-1][fitting:]]
  return lines

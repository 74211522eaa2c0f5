"""Picture of retrieved images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from jaxtyping import UInt8

from flowkd_jax._numerics import label_rule
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report import _texts

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_FRAMES = (
  _legends.Entry("the class of the query", _colors.Style(_colors.RIGHT)),
  _legends.Entry("another class", _colors.Style(_colors.WRONG), dashed=True),
)


def retrieval_picture(
  query_images: UInt8[np.ndarray, "queries height width channels"],
  query_labels: Int[np.ndarray, " queries"],
  found_images: UInt8[np.ndarray, "queries found height width channels"],
  found_labels: Int[np.ndarray, "queries found"],
  *,
  class_names: Sequence[str],
  title: str = "Queries and the images found for them, the nearest first",
) -> "Figure":
  """Draw a row per query: its image, then the retrieved images, with class names.

  A frame is green if the class is that of the query, otherwise orange and dashed.

  Args:
    query_images: Values in 0..255; one channel is gray.
    query_labels: Classes of the queries. A negative number is shown as "no label".
    found_images: Images found for each query, as by `evaluation.nearest_rows`.
    found_labels: Classes of the images that were found. The frame of an image without a
      label is orange.
    class_names: One name per class.
    title: Title of the figure.

  Raises:
    NothingToDrawError: If there are no queries.
    ValueError: If shapes disagree or a label is at or above the number of names.
  """
  queries = len(query_labels)
  if not queries:
    raise _canvas.NothingToDrawError("query_labels: expected at least one, got none")
  found = np.shape(found_labels)[-1]
  for name, array, expected in (
    ("query_images", query_images, (queries, *np.shape(query_images)[1:])),
    ("found_labels", found_labels, (queries, found)),
    ("found_images", found_images, (queries, found, *np.shape(query_images)[1:])),
  ):
    if np.shape(array) != expected:
      raise ValueError(f"{name}: expected shape {expected}, got {np.shape(array)}")
  for name, array in (("query_labels", query_labels), ("found_labels", found_labels)):
    label_rule.checked_labels(array, len(class_names), shape=np.shape(array), name=name)
  width = max(6.0, 0.9 * (1 + found))
  room = 72 * width / (1 + found) - 8  # points beside one another
  names = {
    label: _lines_of_name(label, class_names, room)
    for label in (-1, *range(len(class_names)))
  }
  shown = np.unique(np.append(query_labels, found_labels))
  lines = max(names[max(int(label), -1)].count("\n") for label in shown)
  figure, grid = _canvas.new_figure(
    queries,
    1 + found,
    title=title,
    width=width,
    height=0.6 + (1.15 + 0.17 * lines) * queries,
  )
  for row, line in enumerate(grid):
    label = query_labels[row]
    _draw_image(line[0], query_images[row], names[max(int(label), -1)], _colors.QUERY)
    shown = zip(line[1:], found_images[row], found_labels[row], strict=True)
    for axes, image, found_label in shown:
      right = found_label == label and label >= 0
      color = _colors.RIGHT if right else _colors.WRONG
      _draw_image(axes, image, names[max(int(found_label), -1)], color)
      axes.spines[:].set_linestyle("-" if right else "--")
  _legends.below(figure, _FRAMES)
  return figure


def _lines_of_name(label: int, class_names: Sequence[str], room: float) -> str:
  """Name of a class on as many lines as it needs above an image."""
  name = "no label" if label < 0 else class_names[label]
  return "\n".join(_texts.wrapped(name, 9, room))


def _draw_image(axes: "Axes", image: np.ndarray, name: str, color: str) -> None:
  axes.grid(visible=False)
  axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r")
  axes.set(xticks=[], yticks=[])
  axes.set_title(name, size=9, color=color, pad=3)
  axes.spines[:].set(visible=True, color=color, linewidth=2)

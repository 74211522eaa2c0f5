"""Images that a network finds alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from jaxtyping import UInt8

from flowkd_jax._numerics import label_rule
from flowkd_jax.report import _canvas

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_RIGHT, _WRONG, _QUERY = "#009E73", "#D55E00", "#404040"


def retrieval_picture(
  query_images: UInt8[np.ndarray, "queries height width channels"],
  query_labels: Int[np.ndarray, " queries"],
  found_images: UInt8[np.ndarray, "queries found height width channels"],
  found_labels: Int[np.ndarray, "queries found"],
  *,
  class_names: Sequence[str],
  title: str = "Queries and the images found for them, the nearest first",
) -> "Figure":
  """A row per query: its image, then the images found, with the names of classes.

  A frame is green where the class is that of the query, and orange where it is not.

  Args:
    query_images: Values in 0..255; one channel is gray.
    query_labels: Their classes; a negative label is "no label".
    found_images: Images found for each query, as by `evaluation.nearest_rows`.
    found_labels: Their classes; the frame of an image without a label is orange.
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
  figure, grid = _canvas.new_figure(
    queries,
    1 + found,
    title=title,
    width=max(6.0, 0.9 * (1 + found)),
    height=0.6 + 1.15 * queries,
  )
  for row, line in enumerate(grid):
    label = query_labels[row]
    _draw_image(line[0], query_images[row], _class_name(label, class_names), _QUERY)
    shown = zip(line[1:], found_images[row], found_labels[row], strict=True)
    for axes, image, found_label in shown:
      colour = _RIGHT if found_label == label and label >= 0 else _WRONG
      _draw_image(axes, image, _class_name(found_label, class_names), colour)
  return figure


def _class_name(label: int, class_names: Sequence[str]) -> str:
  return "no label" if label < 0 else class_names[int(label)]


def _draw_image(axes: "Axes", image: np.ndarray, name: str, colour: str) -> None:
  axes.grid(visible=False)
  axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r")
  axes.set(xticks=[], yticks=[])
  axes.set_title(name, size=9, color=colour, pad=3)
  axes.spines[:].set(visible=True, color=colour, linewidth=2)

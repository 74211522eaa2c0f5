"""Pictures of layer maps: matrices over the taps of two networks."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

Matrix = Float[np.ndarray, "student_taps teacher_taps"]


def layer_picture(
  matrices: Mapping[str, Matrix],
  student_taps: Sequence[str],
  teacher_taps: Sequence[str],
  layer_map: Mapping[str, str] | None = None,
) -> "Figure":
  """Draw a panel per matrix, with student taps as rows and teacher taps as columns.

  Args:
    matrices: Matrices by title. Larger values are darker.
    student_taps: Names of the rows.
    teacher_taps: Names of the columns.
    layer_map: Teacher tap of each student tap, framed.

  Raises:
    NothingToDrawError: If there is no matrix.
    ValueError: If a matrix is of another shape than the taps.
  """
  if not matrices:
    raise _canvas.NothingToDrawError("matrices: expected at least one, got none")
  shape = len(student_taps), len(teacher_taps)
  for title, matrix in matrices.items():
    if matrix.shape != shape:
      raise ValueError(f"{title}: expected shape {shape}, got {matrix.shape}")
  figure, grid = _canvas.new_figure(
    1,
    len(matrices),
    title="Taps of the student (down) and of the teacher (across)",
    width=max(6.0, (1.5 + 0.9 * shape[1]) * len(matrices)),
    height=2.2 + 0.55 * shape[0],
  )
  for axes, (title, matrix) in zip(grid.flat, matrices.items(), strict=True):
    _draw_matrix(axes, matrix)
    _canvas.name_axes(axes, title=title)
    axes.set_xticks(range(shape[1]), teacher_taps, rotation=30, ha="right")
    axes.set_yticks(range(shape[0]), student_taps)
    for student, teacher in (layer_map or {}).items():
      _frame(axes, student_taps.index(student), teacher_taps.index(teacher))
  if layer_map:
    chosen = _colors.Style(_colors.CHOSEN)
    _legends.below(figure, [_legends.Entry("frame: pair of the layer map", chosen)])
  return figure


def _draw_matrix(axes: "Axes", matrix: Matrix) -> None:
  axes.grid(visible=False)
  axes.imshow(matrix, cmap="Blues", aspect="auto")
  middle = (matrix.max() + matrix.min()) / 2
  for (row, column), value in np.ndenumerate(matrix):
    axes.text(
      column,
      row,
      f"{value:.2g}",
      ha="center",
      va="center",
      size=9,
      color="white" if value > middle else "black",
    )


def _frame(axes: "Axes", row: int, column: int) -> None:
  from matplotlib.patches import Rectangle

  corner = column - 0.5, row - 0.5
  frame = Rectangle(corner, 1, 1, fill=False, edgecolor=_colors.CHOSEN, linewidth=2)
  axes.add_patch(frame)

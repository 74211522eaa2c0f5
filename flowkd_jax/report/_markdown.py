"""Tables in GitHub's Markdown."""

from collections.abc import Sequence


def markdown_table(
  headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1
) -> str:
  """The lines of a table, without one at the end.

  Args:
    headings: Heading of each column.
    rows: Cells of each row, as they are shown; a vertical bar is escaped.
    left: Columns, from the first, that are aligned to the left; the others hold
      numbers and are aligned to the right.
  """
  import tabulate  # here, as nothing else of this room needs it

  cells = [[cell.replace("|", r"\|") for cell in row] for row in (headings, *rows)]
  right = len(headings) - left
  lines = tabulate.tabulate(
    cells[1:] or [[""] * len(headings)],
    cells[0],
    tablefmt="pipe",
    colalign=["left"] * left + ["right"] * right,
    disable_numparse=True,
  ).splitlines()
  return "\n".join(lines if rows else lines[:2])

"""The final table: one row per network, for terminals, logs and Markdown."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from flowkd_jax.report import _markdown
from flowkd_jax.report._read import Results

_DASH = "–"
_VALIDATION = "validation_accuracy"
_BEST = "best_test_epoch_accuracy"
_METRICS = {"eucl": "euclidean", "cos": "cosine"}
_UNTRAINED = (
  f"{_DASH} for acc.: the classifier was not trained, as transfer uses no labels; "
  "compare NCC and retrieval."
)
_CHOSEN = (
  "(best ep.): the highest accuracy of any epoch, chosen on the test images; acc. is "
  "that of the last epoch, and the one to report."
)


class _Column(NamedTuple):
  """A column: its heading in two lines, the number of a network, and its format."""

  heading: tuple[str, str]
  number: Callable[[Mapping[str, Any]], float | None]
  form: Callable[[float], str]
  is_ranked: bool = True


class _Cell(NamedTuple):
  text: str
  best: bool


def network_table(results: Results, *, authors: bool = False) -> Table:
  """One row per network: size, accuracy and retrieval in percent, time.

  Among networks of equal size, the best numbers are bold. The table fits into 80
  columns and needs no colours.

  Args:
    results: Results of `read_results`.
    authors: Show mean average precision and precision at k as the code published
      with the paper computes them (see `evaluation.RetrievalMetrics`).
  """
  columns = _columns(results, authors)
  table = Table(
    title=_title(authors),
    caption="\n" + "\n".join(_notes(results)),
    title_justify="left",
    caption_justify="left",
    title_style="bold",
    caption_style="",
    box=box.SIMPLE_HEAD,
    show_edge=False,
    padding=0,
  )
  table.add_column("network")
  for column in columns:
    heading = "\n".join(column.heading).strip()
    width = 6 if column.heading[1] == "eucl" else None  # a gap between pairs
    table.add_column(heading, justify="right", no_wrap=True, min_width=width)
  for network, cells in zip(results, _cells(results, columns), strict=True):
    texts = [Text(cell.text, style="bold" if cell.best else "") for cell in cells]
    table.add_row(Text(_name(network)), *texts)
  return table


def network_cells(
  results: Results, *, authors: bool = False
) -> tuple[list[str], list[list[tuple[str, bool]]], list[str]]:
  """The table as `(headings, rows of (text, whether it is the best), notes)`."""
  columns = _columns(results, authors)
  headings = ["network", *(" ".join(column.heading).strip() for column in columns)]
  rows = [
    [(_name(network), False), *((cell.text, cell.best) for cell in cells)]
    for network, cells in zip(results, _cells(results, columns), strict=True)
  ]
  return headings, rows, _notes(results)


def network_markdown(results: Results, *, authors: bool = False) -> str:
  """The table of `network_table` in GitHub's Markdown, with its notes below."""
  headings, cells, notes = network_cells(results, authors=authors)
  rows = [[f"**{text}**" if best else text for text, best in row] for row in cells]
  table = _markdown.markdown_table(headings, rows)
  return "\n\n".join([f"{_title(authors)}:", table, *notes]) + "\n"


def _title(authors: bool) -> str:
  variant = ", mAP and P@k as the authors' code has them" if authors else ""
  return f"Networks on the test set{variant}"


def _columns(results: Results, authors: bool) -> list[_Column]:
  prefix = "authors_" if authors else ""
  rank = _largest_rank(results)
  columns = [
    _Column(("parameters", ""), _number("parameters"), _count, False),
    _Column(("acc.", ""), _number("accuracy"), _percent),
  ]
  if _has(results, _VALIDATION):
    columns.append(_Column(("val.", ""), _number(_VALIDATION), _percent))
  if _has(results, _BEST):
    columns.append(_Column(("(best", "ep.)"), _number(_BEST), _percent, False))
  measured = [
    ("NCC", "centroid", ()),
    ("mAP", "retrieval", (f"{prefix}mean_average_precision",)),
  ]
  if rank is not None:
    measured.append((f"P@{rank}", "retrieval", (f"{prefix}precision_at", rank)))
  for heading, kind, keys in measured:
    for short, metric in _METRICS.items():
      look_up = _number(kind, metric, *keys)
      columns.append(_Column((heading, short), look_up, _percent))
  return [*columns, _Column(("seconds", ""), _number("seconds"), _count, False)]


def _has(results: Results, key: str) -> bool:
  return any(network.get(key) is not None for network in results)


def _largest_rank(results: Results) -> str | None:
  """The largest k of precision at k; ranks are strings, as JSON has them."""
  ranks = {
    rank
    for network in results
    for measured in (network.get("retrieval") or {}).values()
    for rank in measured.get("precision_at", {})
  }
  return max(ranks, key=int, default=None)


def _number(*keys: Any) -> Callable[[Mapping[str, Any]], float | None]:
  """Looks up nested keys; None where one is missing."""

  def look_up(network):
    value = network
    for key in keys:
      value = value.get(key) if isinstance(value, Mapping) else None
    return value

  return look_up


def _percent(value: float) -> str:
  return f"{100 * value:.2f}"


def _count(value: float) -> str:
  return f"{value:,.0f}"


def _cells(results: Results, columns: list[_Column]) -> list[list[_Cell]]:
  """Rows of cells; best are those that beat another network of the same size."""
  by_column = [_column_cells(results, column) for column in columns]
  return [list(row) for row in zip(*by_column, strict=True)]


def _column_cells(results: Results, column: _Column) -> list[_Cell]:
  values = [column.number(network) for network in results]
  sizes = [network.get("parameters") for network in results]
  rivals: dict[Any, list[float]] = {}
  for size, value in zip(sizes, values, strict=True):
    if value is not None:
      rivals.setdefault(size, []).append(value)
  # Once per size and not per cell: a report may have hundreds of networks.
  limits = {size: (min(found), max(found)) for size, found in rivals.items()}
  return [
    _cell(value, limits.get(size), column)
    for size, value in zip(sizes, values, strict=True)
  ]


def _cell(
  value: float | None, limits: tuple[float, float] | None, column: _Column
) -> _Cell:
  if value is None or limits is None:
    return _Cell(_DASH, best=False)
  least, greatest = limits
  best = column.is_ranked and least < value == greatest
  return _Cell(column.form(value), best)


def _notes(results: Results) -> list[str]:
  meanings = [
    "acc.: accuracy",
    "NCC: accuracy of the nearest class centroid",
    "mAP: mean average precision",
  ]
  if _has(results, _VALIDATION):
    meanings.insert(1, "val.: accuracy on the validation images")
  rank = _largest_rank(results)
  if rank is not None:
    meanings.append(f"P@{rank}: precision among the first {rank}")
  notes = [
    f"In %: {', '.join(meanings)}; by Euclidean (eucl) or cosine (cos) distance. "
    "Bold: best of networks of equal size."
  ]
  if _has(results, _BEST):
    notes.append(_CHOSEN)
  if any(network.get("accuracy") is None for network in results):
    notes.append(_UNTRAINED)
  return notes


def _name(network: Mapping[str, Any]) -> str:
  return network.get("title") or network["name"]

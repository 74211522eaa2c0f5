"""Tables of runs with one row each: training and retrieval of a network.

Runs with the same seed start from equal weights and see the data in the same order, so
rows are compared seed by seed.
"""

import statistics
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from experiments.studies import spec
from experiments.tables import paired_arms
from flowkd_jax import report

_DASH = "–"


def table(study: spec.Study, found: paired_arms.Found) -> list[str]:
  """The lines of two tables in Markdown: the main numbers, and all other numbers.

  Numbers are the mean and standard deviation over seeds. The first table fits beside
  the navigation of the site.
  """
  main = list(dict.fromkeys(("mAP e", "mAP c", study.compared, "accuracy")))
  rest = [name for name in COLUMNS if name not in main]
  gap = [f"{study.compared} − {study.baseline}"] if study.baseline else []
  baseline = [each for each in study.runs if each.name == study.baseline]
  rows, more = [], []
  for title, values in study.published:
    cells = {name: _percent([values.get(name)]) for name in COLUMNS}
    shown = (cells[name] for name in main)
    rows.append([f"*{title}*", "", *shown, *(_DASH for _ in gap), ""])
    if any(name in values for name in rest):
      more.append([f"*{title}*", *(cells[name] for name in rest)])
  for each in study.runs:
    networks = networks_of_row(each, found)
    if not networks:
      rows.append([each.title, "not run", *("" for _ in [*main, *gap]), ""])
      continue
    cells = {
      name: _percent([*numbers(each, name, found, factor=100).values()])
      for name in COLUMNS
    }
    gaps = [
      "" if other is each else _gap(each, other, study.compared, found)
      for other in baseline
    ]
    minutes = statistics.mean(network["seconds"] for network in networks.values()) / 60
    shown = (cells[name] for name in main)
    rows.append([each.title, ", ".join(networks), *shown, *gaps, f"{minutes:.0f}"])
    more.append([each.title, *(cells[name] for name in rest)])
  headings = [study.title, "seeds", *main, *gap, "minutes"]
  lines = report.markdown_table(headings, rows, left=2).splitlines()
  if more:
    below = report.markdown_table(["The same runs", *rest], more, left=1)
    lines += ["", *below.splitlines()]
  return lines


def numbers(
  run: spec.Run, column: str, found: paired_arms.Found, *, factor: float = 1
) -> dict[str, float | None]:
  """A number of the network of a row, by seed.

  Args:
    run: The row.
    column: Heading of the number.
    found: Networks of the study.
    factor: Factor of the number, such as 100 for percent.

  Raises:
    KeyError: If there is no such column.
  """
  value = COLUMNS[column]
  results = {
    seed: value(network) for seed, network in networks_of_row(run, found).items()
  }
  return {
    seed: None if result is None else factor * result
    for seed, result in results.items()
  }


def _gap(each, other, column, found):
  """Difference between two rows in a column."""
  return paired_arms.difference(
    numbers(each, column, found), numbers(other, column, found), 100
  )


def networks_of_row(
  each: spec.Run, found: paired_arms.Found
) -> dict[str, Mapping[str, Any]]:
  """The network of a row, by seed.

  Args:
    each: The row.
    found: Networks of the study.
  """
  return {
    seed: networks[each.result]
    for seed, networks in found[each.name].items()
    if each.result in networks
  }


def _accuracy(network):
  """Accuracy, None after a transfer to an auxiliary, which trains no classifier.

  Runs of version 0.1 recorded an accuracy nevertheless.
  """
  transferred = network["name"] == "auxiliary" and network.get("teacher") is not None
  return None if transferred else network["accuracy"]


def _look_up(*keys):
  def look_up(network):
    for key in keys:
      network = network[key]
    return network

  return look_up


def _percent(values) -> str:
  """Mean, and for several values the standard deviation."""
  if None in values:
    return _DASH
  mean = f"{statistics.mean(values):.2f}"
  return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def _columns() -> dict[str, Callable[[Mapping[str, Any]], float | None]]:
  columns: dict[str, Callable[[Mapping[str, Any]], float | None]] = {}
  for heading, keys in (
    ("mAP", ("authors_mean_average_precision",)),
    ("top-100", ("authors_precision_at", "100")),
    ("area mAP", ("mean_average_precision",)),
    ("P@100", ("precision_at", "100")),
  ):
    for short, metric in (("e", "euclidean"), ("c", "cosine")):
      columns[f"{heading} {short}"] = _look_up("retrieval", metric, *keys)
  for short, metric in (("e", "euclidean"), ("c", "cosine")):
    columns[f"centroid {short}"] = _look_up("centroid", metric)
  columns["accuracy"] = _accuracy
  return columns


# Numbers of a network by the heading of their column.
COLUMNS = _columns()

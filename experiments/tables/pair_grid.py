"""Tables of methods on pairs of networks, with published accuracies."""

import statistics

from experiments.studies import spec
from experiments.tables import paired_arms
from flowkd_jax import report

_DASH = "–"


def table(study: spec.Study, found: paired_arms.Found) -> list[str]:
  """Lines of the tables in Markdown, one table for each family of pairs.

  Args:
    study: A study with a grid.
    found: Networks of its runs.

  Raises:
    ValueError: If the study has no grid.
  """
  grid = study.grid
  if grid is None:
    raise ValueError(f"study: expected one with a grid, got {study.title!r}")
  runs = {run.name: run for run in study.runs}
  lines = []
  for family in grid.families:
    headings = [study.title, *(grid.columns[pair] for pair in family)]
    rows = [
      [title, *(_cell(grid, runs, found, method, pair) for pair in family)]
      for method, title in grid.rows
    ]
    lines += [*report.markdown_table(headings, rows, left=1).splitlines(), ""]
  cells = {grid.run(name, pair) for name, _ in grid.rows for pair in grid.columns}
  made = sum(bool(found.get(name)) for name in cells)
  return [*lines, _legend(grid, made, len(cells))]


def _cell(grid, runs, found, method, pair) -> str:
  parts = []
  if (method, pair) in grid.published:
    protocol, percent = grid.published[method, pair]
    parts.append(f"{percent:.2f} {protocol}")
  run = runs.get(grid.run(method, pair))
  networks = [] if run is None else _networks(run, found)
  if networks:
    parts.append(f"**{_spread(networks, 'accuracy')}**")
    if all("best_test_epoch_accuracy" in network for network in networks):
      parts[-1] += f" ({_spread(networks, 'best_test_epoch_accuracy')})"
  return "; ".join(parts) or _DASH


def _networks(run, found):
  seeds = found.get(run.name, {})
  return [networks[run.result] for networks in seeds.values() if run.result in networks]


def _spread(networks, metric) -> str:
  """Mean and, of several, standard deviation, in percent."""
  values = [100 * network[metric] for network in networks]
  mean = f"{statistics.mean(values):.2f}"
  return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def _legend(grid: spec.Grid, made: int, total: int) -> str:
  text = (
    "Bold numbers are ours: the test accuracy of the last epoch in percent, as mean "
    "and standard deviation over seeds. The accuracy of the best test epoch, which is "
    "chosen on the test images, is in brackets."
  )
  if grid.published:
    letters = "; ".join(f"{letter}: {what}" for letter, what in grid.protocols.items())
    text = f"Numbers with a letter are published, with this protocol: {letters}. {text}"
  return f"{text} {made or 'None'} of {total} runs {'is' if made == 1 else 'are'} made."

"""Tables of arms of the same launches, with paired differences and intervals.

Arms of a launch share the seed, the data, the initial weights and the teacher, so their
difference varies less over seeds than their accuracies. The table shows the mean
difference over seeds with Student's 95 % interval.
"""

import statistics
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import scipy.stats

from experiments.studies import spec
from experiments.tables import kept_runs
from flowkd_jax import report

_DASH = "–"
_WIDEST = 7  # numbers of a table
_ACCURACY = "test_accuracy"
# Results by run, seed and network.
Found = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]


def networks(study: spec.Study, runs: kept_runs.KeptRuns) -> Found:
  """The networks of the launches behind the rows of a study.

  Args:
    study: The study.
    runs: Kept runs of the study.
  """
  return {
    run.name: {
      seed: {network["name"]: network for network in kept.networks}
      for seed, kept in runs.get(run.folder, {}).items()
    }
    for run in study.runs
  }


def diverged(runs: kept_runs.KeptRuns) -> set[tuple[str, str]]:
  """Runs and arms that diverged with every seed."""
  return {
    (name, arm["name"])
    for name, seeds in runs.items()
    for arm in next(iter(seeds.values())).diverged
    if all(arm["name"] in _names(run.diverged) for run in seeds.values())
  }


def _names(networks: Iterable[Mapping[str, Any]]) -> set[str]:
  return {network["name"] for network in networks}


def table(
  study: spec.Study, found: Found, gone: Collection[tuple[str, str]] = ()
) -> list[str]:
  """The lines of the table in Markdown, split into several tables if it is too wide.

  Args:
    study: The study.
    found: Networks of its runs.
    gone: Runs and arms that `diverged`.
  """
  comparison = study.comparison
  if comparison is None:
    raise ValueError(f"study: expected one with a comparison, got {study.title!r}")
  lines: list[str] = []
  for columns in _parts(comparison):
    rows, headings = [], []
    for column in columns:
      against = comparison.baselines if column.paired else ()
      headings += [column.heading, *(f"− {name}" for name in against)]
    for arm in comparison.arms:
      cells = [
        cell
        for column in columns
        for cell in _cells(column, arm, found, len(comparison.baselines), gone)
      ]
      rows.append([arm.title, *([] if lines else [_seeds(arm, found)]), *cells])
    begin = ["The same runs"] if lines else [study.title, "seeds"]
    text = report.markdown_table([*begin, *headings], rows, left=len(begin))
    lines += ["", *text.splitlines()] if lines else text.splitlines()
  return lines


def _parts(comparison: spec.Comparison) -> list[list[spec.Column]]:
  """Columns of each table: one table if they fit, else the differences come first.

  A page of 1,280 pixels shows `_WIDEST` numbers beside the name of an arm.
  """

  def width(columns):
    per_paired = 1 + len(comparison.baselines)
    return sum(per_paired if column.paired else 1 for column in columns)

  if width(comparison.columns) <= _WIDEST:
    return [[*comparison.columns]]
  parts: list[list[spec.Column]] = [[]]
  for column in sorted(comparison.columns, key=lambda column: not column.paired):
    if parts[-1] and width([*parts[-1], column]) > _WIDEST:
      parts.append([])
    parts[-1].append(column)
  return parts


def _seeds(arm, found):
  """Number of seeds of an arm; the minimum over all runs that have the arm."""
  counts = [
    sum(arm.name in networks for networks in seeds.values()) for seeds in found.values()
  ]
  counts = [count for count in counts if count]
  if not counts:
    return "not run"
  low, high = min(counts), max(counts)
  return str(low) if low == high else f"{low} to {high}"


def _cells(column, arm, found, num_baselines, gone) -> list[str]:
  values = numbers(column, arm.name, found)
  if column.runs and all((run, arm.name) in gone for run in column.runs):
    return ["diverged", *[""] * num_baselines * column.paired]
  if column.form == "times":
    return [_times(values, numbers(column, (*arm.baselines, "")[0], found))]
  form, factor = ("{:.2f}", 100) if column.form == "percent" else ("{:.3g}", 1)
  cells = [spread(values.values(), form, factor)]
  if not column.paired:
    return cells
  for name in (*arm.baselines, *[""] * num_baselines)[:num_baselines]:
    others = numbers(column, name, found) if name != arm.name else {}
    cells.append(difference(values, others, factor))
  return cells


def _times(values, others) -> str:
  """Mean of the ratios of equal seeds."""
  ratios = [
    value / others[seed]
    for seed, value in values.items()
    if value is not None and others.get(seed)
  ]
  return _mean(ratios, "{:.2f}") if ratios else _DASH


def numbers(column: spec.Column, name: str, found: Found) -> dict[str, float | None]:
  """The number of an arm by seed: its mean over the runs of the column."""
  runs = [found[run] for run in column.runs or found]
  if not column.runs:
    runs = [run for run in runs if run]
  every = set.intersection(*map(set, runs)) if runs else ()
  values = {}
  for seed in sorted(every, key=int):
    networks = [run[seed].get(name, {}) for run in runs]
    if all(column.metric in network for network in networks):
      measured = [network[column.metric] for network in networks]
      values[seed] = None if None in measured else statistics.mean(measured)
  return values


def spread(values: Iterable[float | None], form: str, factor: float) -> str:
  """Mean and standard deviation; if values are missing, also their number."""
  values = list(values)
  known = [factor * value for value in values if value is not None]
  if not known:
    return _DASH
  text = _mean(known, form)
  if len(known) > 1:
    text += f" ± {form.format(statistics.stdev(known))}"
  return text if len(known) == len(values) else f"{text} ({len(known)}/{len(values)})"


def _mean(values: Iterable[float], form: str) -> str:
  return form.format(statistics.mean(values))


def difference(
  values: Mapping[str, float | None], others: Mapping[str, float | None], factor: float
) -> str:
  """Mean of the differences of equal seeds, and its 95 % interval; "" without pairs."""
  pairs = [(value, others.get(seed)) for seed, value in values.items()]
  gaps = [
    factor * (one - other)
    for one, other in pairs
    if one is not None and other is not None
  ]
  if not gaps:
    return ""
  mean = statistics.mean(gaps)
  text = f"{mean:+.2f}".replace("-", "−")
  if len(gaps) < 2:
    return text
  error = statistics.stdev(gaps) / len(gaps) ** 0.5
  half = float(scipy.stats.t.ppf(0.975, len(gaps) - 1)) * error
  return f"{text} ± {half:.2f}"


def accuracies(metrics: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Entries with accuracies on data that was not trained on, and nothing else."""
  names = ("stage", "epoch", _ACCURACY, "validation_accuracy")
  kept = [{name: entry[name] for name in names if name in entry} for entry in metrics]
  return [entry for entry in kept if len(entry) > 2]


def epoch_seconds(metrics: list[dict[str, Any]], stage: str) -> float | None:
  """Shortest epoch of a stage, which other work on the machine slowed least."""
  times = [
    entry["seconds"]
    for entry in metrics
    if entry["stage"] == stage and entry["epoch"] >= 0 and "seconds" in entry
  ]
  return min(times, default=None)


def launch_minutes(found: Found) -> float:
  """Mean time that a launch trained, measurements during training included."""
  launches = [
    sum(
      {
        name.partition("/")[0]: one["seconds"] for name, one in networks.items()
      }.values()
    )
    for seeds in found.values()
    for networks in seeds.values()
  ]
  return statistics.mean(launches) / 60 if launches else 0.0


def curves(study: spec.Study, runs: kept_runs.KeptRuns) -> "dict[str, report.Curves]":
  """Test accuracy of every arm after every epoch measured, by seed, for each run.

  Arms and runs are keyed by their titles. A run with less than three measured epochs
  has no curve.
  """
  panels = {}
  for run in study.runs:
    metrics = [kept.metrics for kept in runs.get(run.name, {}).values()]
    lines = {}
    for arm in study.comparison.arms if study.comparison else ():
      found = [line for seed in metrics if len(line := _line(seed, arm.name)) > 2]
      if found:
        lines[arm.title] = found
    if lines:
      panels[run.title] = lines
  return panels


def _line(metrics, name) -> dict[int, float]:
  return {
    entry["epoch"] + 1: entry[_ACCURACY]
    for entry in metrics
    if entry["stage"] == name and _ACCURACY in entry
  }

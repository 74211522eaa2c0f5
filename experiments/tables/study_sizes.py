"""Roles of the rows of a study, and the picture of all its networks by size."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import network_rows
from experiments.tables import paired_arms
from flowkd_jax import report

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_ROLE_OF_RESULT = {
  "teacher": "teacher",
  "auxiliary": "auxiliary",
  "auxiliary_labels": "auxiliary on labels",
  "student_labels": "student on labels",
  "student_kd": "KD",
}
# Roles of arms whose names are not names of stages, by the first arm of each group.
_ROLE_OF_ARM = {
  "alone_1": "student on labels",
  "shared_base/student_1": "control",
  "ensemble/student_1": "student",
}
_MEASURES = {
  "mAP e": "mAP by Euclidean distance, %",
  "mAP c": "mAP by cosine, %",
  "area mAP e": "area mAP by Euclidean distance, %",
  "area mAP c": "area mAP by cosine, %",
  "accuracy": "accuracy, %",
}

_Value = Callable[[Mapping[str, Any]], float | None]


def method_row(study: spec.Study, found: paired_arms.Found) -> str | None:
  """Row of the method, which is drawn bold, not a control without a teacher.

  Candidates are the baseline of all other rows, the row "student" and the last row, in
  this order. The first candidate that learns from another network is returned.

  Args:
    study: The study.
    found: Networks of the study.
  """
  learning = [
    run.name
    for run in study.runs
    if any(
      network.get("teacher") and run.result not in _ROLE_OF_RESULT
      for network in network_rows.networks_of_row(run, found).values()
    )
  ]
  candidates = [study.baseline, "student", *learning[::-1]]
  return next((name for name in candidates if name in learning), None)


def row_styles(
  study: spec.Study, others: Iterable[str] = (), method: str | None = None
) -> dict[str, report.Style]:
  """Style of each row by its name, the same in all pictures of the study.

  Args:
    study: The study.
    others: Names of further networks, whose names may give them a role.
    method: Name of the row that is the method.
  """
  roles = {
    run.name: _ROLE_OF_RESULT[run.result]
    for run in study.runs
    if run.result in _ROLE_OF_RESULT
  }
  if method is not None:
    roles[method] = "student"
  return report.network_styles([*(run.name for run in study.runs), *others], roles)


def arm_styles(study: spec.Study) -> dict[str, report.Style]:
  """Style of each arm of a comparison, by the title of the arm and of its group.

  Args:
    study: The study; without a comparison there are none.
  """
  groups: dict[str, str] = {}
  arms = study.comparison.arms if study.comparison else ()
  for arm in arms:
    groups.setdefault(_group(study, arm), arm.name)
  roles = {name: _ROLE_OF_ARM[name] for name in groups.values() if name in _ROLE_OF_ARM}
  styles = report.network_styles(groups.values(), roles)
  by_group = {group: styles[name] for group, name in groups.items()}
  return {arm.title: by_group[_group(study, arm)] for arm in arms} | by_group


def _group(study: spec.Study, arm: spec.Arm) -> str:
  """The title, or its end if arms of several sizes share it: "student 1: alone"."""
  end = arm.title.partition(": ")[2]
  arms = study.comparison.arms if study.comparison else ()
  shared = end and sum(one.title.endswith(f": {end}") for one in arms) > 1
  return end if shared else arm.title


def size_picture(study: spec.Study, runs: kept_runs.KeptRuns) -> "Figure":
  """Accuracy or retrieval of all networks of a study against their parameters.

  Teachers that are not rows are included. A study with a grid has no such picture, as
  it has too many rows.

  Args:
    study: The study.
    runs: Kept runs of the study.

  Raises:
    NothingToDrawError: If there are no networks of different sizes.
  """
  found = paired_arms.networks(study, runs)
  if study.grid:
    raise report.NothingToDrawError("study: expected rows or arms, got a grid")
  if study.comparison:
    metric = study.comparison.columns[0].metric
    panels = {
      run.title: _arms(study, metric, found[run.name])
      for run in study.runs
      if found[run.name]
    }
    measure = f"{metric.replace('_', ' ')}, %"
    return report.size_picture(panels, measure=measure, styles=arm_styles(study))
  value = network_rows.COLUMNS[study.compared]
  rows = []
  for run in study.runs:
    networks = network_rows.networks_of_row(run, found).values()
    rows += _sized(run.title, list(networks), value)
  rows += _teachers(study, found, value, {row.size for row in rows})
  measure = _MEASURES.get(study.compared, f"{study.compared}, %")
  styles = _styles(study, found, rows)
  return report.size_picture({"": rows}, measure=measure, styles=styles)


def _arms(study, metric, seeds) -> list[report.Sized]:
  arms = []
  for arm in study.comparison.arms:
    networks = [one[arm.name] for one in seeds.values() if arm.name in one]
    arms += _sized(_group(study, arm), networks, lambda network: network.get(metric))
  return arms


def _sized(title: str, networks: list[Mapping[str, Any]], value: _Value):
  """Networks of all seeds as one point; None if they were not measured."""
  values = []
  for network in networks:
    # Not every launch measures retrieval.
    with contextlib.suppress(KeyError, TypeError):
      number = value(network)
      values += [] if number is None else [100 * number]
  known = values and all(network.get("parameters") for network in networks)
  return [report.Sized(title, networks[0]["parameters"], values)] if known else []


def _teachers(study, found, value, shown: set[int]) -> list[report.Sized]:
  """Measured teachers that are not rows themselves."""
  teachers: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
  for run in study.runs:
    for seed, network in network_rows.networks_of_row(run, found).items():
      teacher = found[run.name][seed].get(network.get("teacher"), {})
      if teacher.get("parameters") not in (None, *shown):
        key = teacher["name"], teacher["parameters"]
        teachers.setdefault(key, []).append(teacher)
  points = []
  for (name, _), networks in teachers.items():
    for point in _sized(f"{name} that the rows learn from", networks, value):
      # Each row that shares a teacher has measured it.
      points.append(point._replace(values=sorted(set(point.values))))
  return points


def _styles(study, found, rows) -> dict[str, report.Style]:
  """Styles by title: of rows, and of teachers, whose titles begin with their names."""
  titles = {run.title for run in study.runs}
  others = {row.title: row.title.partition(" ")[0] for row in rows}
  others = {title: name for title, name in others.items() if title not in titles}
  styles = row_styles(study, others.values(), method_row(study, found))
  by_title = {title: styles[name] for title, name in others.items()}
  return by_title | {run.title: styles[run.name] for run in study.runs}

"""Pictures of a study: information flow, curves of accuracy, sizes, time by part.

Roles give the colours, the same in all pictures of a study: the method, the controls,
the teacher, the auxiliary.
"""

import contextlib
import math
import statistics
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from PIL import Image

from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import network_rows
from experiments.tables import paired_arms
from experiments.tables import study_sizes
from flowkd_jax import report

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# File and alternative text of each picture, in the order in which they are shown.
FILES = {
  "flow.png": "Information flow of the rows over the epochs",
  "curves.png": "Accuracy over the epochs",
  "sizes.png": "Size and quality of the networks",
  "times.png": "Time of training by part",
}
# With fewer colours, lines change their colour and light bands become white.
_COLOURS = 256
_PIXELS_PER_INCH = 120


def save(study: spec.Study, runs: kept_runs.KeptRuns, folder: Path) -> list[str]:
  """Draw all pictures with numbers; return the names of the files.

  Args:
    study: The study.
    runs: Kept runs of the study.
    folder: Folder of the study.
  """
  pictures: dict[str, Callable[[], Figure]] = {
    "flow.png": lambda: flow_picture(study, runs),
    "curves.png": lambda: curves_picture(study, runs),
    "sizes.png": lambda: study_sizes.size_picture(study, runs),
    "times.png": lambda: time_picture(study, runs),
  }
  written = []
  for name, draw in pictures.items():
    with contextlib.suppress(report.NothingToDrawError):
      draw().savefig(folder / name, dpi=_PIXELS_PER_INCH)
      _shrink(folder / name)
      written.append(name)
  return written


def _shrink(path: Path) -> None:
  """Stores a picture with 256 colours: half the bytes, no visible difference."""
  with Image.open(path) as picture:
    small = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
  small.save(path, optimize=True)


def flow_picture(study: spec.Study, runs: kept_runs.KeptRuns) -> "Figure":
  """The information flow of rows and of their teachers over the epochs.

  A line is the mean over seeds, its band the range.

  Args:
    study: A study whose rows are networks.
    runs: Kept runs of the study.

  Raises:
    NothingToDrawError: If none was recorded.
  """
  found = paired_arms.networks(study, runs)
  learning = {
    each.name: teacher
    for each in _pictured(study)
    for network in network_rows.networks_of_row(each, found).values()
    if (teacher := network.get("teacher"))
  }
  method = study_sizes.method_row(study, found)
  metrics, networks = [], []
  for each in _pictured(study):
    seeds = network_rows.networks_of_row(each, found)
    logs = [runs[each.folder][seed].metrics for seed in seeds]
    teacher = learning.get(each.name)
    last = [_last(log, teacher) for log in logs]
    if teacher and all(last):
      entry = _mean(last)[-1]
      row = _row_of(study, runs, entry)
      teacher = _add_teacher(metrics, networks, entry, each, row)
    if logs:
      networks.append({"name": each.name, "title": each.title, "teacher": teacher})
    metrics += _mean([_of_row(log, each) for log in logs])
  names = [one["name"] for one in networks]
  styles = study_sizes.row_styles(study, names, method)
  focus = method if method in names else None
  return report.flow_picture(metrics, networks, focus=focus, styles=styles)


def _pictured(study: spec.Study) -> list[spec.Run]:
  if study.grid or study.comparison:
    return []
  return [r for r in study.runs if not study.pictured or r.name in study.pictured]


def _of_row(log: Iterable[Mapping[str, Any]], each: spec.Run) -> list[dict[str, Any]]:
  return [
    {**entry, "stage": each.name} for entry in log if entry["stage"] == each.result
  ]


def _last(log: Iterable[Mapping[str, Any]], stage: str | None) -> list[dict[str, Any]]:
  """The last entry of a stage, if there is one."""
  return [dict(entry) for entry in log if entry["stage"] == stage][-1:]


def _mean(logs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
  return logs[0] if len(logs) == 1 else report.mean_metrics(logs)


def _add_teacher(metrics, networks, entry, student, row) -> str:
  """The name of a teacher among the metrics; rows that share one share the name.

  If the teacher is itself a row, it has the name of this row.
  """
  for other in metrics:
    if _is_same_flow(entry, other):
      return other["stage"]
  taken = {other["stage"] for other in metrics}
  title = name = entry["stage"]
  if row is not None:
    name, title = row.name, row.title.removeprefix("the ").partition(",")[0]
  elif name in taken:
    name = f"{title} of {student.name}"
  metrics.append({**entry, "stage": name})
  networks.append({"name": name, "title": title, "teacher": None})
  return name


def _row_of(study, runs, entry) -> spec.Run | None:
  """The row whose network the entry describes, drawn or not."""
  for each in study.runs:
    if each.result == entry["stage"]:
      logs = [run.metrics for run in runs.get(each.folder, {}).values()]
      last = [found for log in logs if (found := _last(log, each.result))]
      if last and _is_same_flow(entry, _mean(last)[-1]):
        return each
  return None


def _is_same_flow(one, other) -> bool:
  """True if two entries describe one network, up to the rounding of launches."""
  keys = [key for key in one if key.startswith("qmi/")]
  near = [math.isclose(one[key], other.get(key, 0), rel_tol=1e-3) for key in keys]
  return bool(near) and all(near)


def curves_picture(study: spec.Study, runs: kept_runs.KeptRuns) -> "Figure":
  """The accuracy of the arms of a comparison over the epochs, a panel for each run.

  Args:
    study: A study with a comparison.
    runs: Kept runs of the study.

  Raises:
    NothingToDrawError: If it was not measured during training.
  """
  epochs = study.comparison.epochs if study.comparison else ""
  styles = study_sizes.arm_styles(study)
  panels = paired_arms.curves(study, runs)
  return report.comparison_picture(panels, x=epochs, styles=styles)


def time_picture(study: spec.Study, runs: kept_runs.KeptRuns) -> "Figure":
  """Time by part of each row, mean over seeds; runs of version 0.1 have none.

  Args:
    study: The study.
    runs: Kept runs of the study.

  Raises:
    NothingToDrawError: If no run has times by part.
  """
  found = paired_arms.networks(study, runs)
  spent = {}
  if study.comparison:
    every = [networks for seeds in found.values() for networks in seeds.values()]
    for arm in study.comparison.arms:
      spent[arm.title] = [one[arm.name] for one in every if arm.name in one]
  else:
    for run in study.runs:
      spent[run.title] = [*network_rows.networks_of_row(run, found).values()]
  bars = {
    title: _mean_times([one["times"] for one in networks])
    for title, networks in spent.items()
    if networks and all("times" in one for one in networks)
  }
  several = any(len(networks) > 1 for networks in spent.values())
  return report.time_picture(bars, note="mean over seeds" if several else "")


def _mean_times(times: list[Mapping[str, float]]) -> dict[str, float]:
  parts = dict.fromkeys(part for one in times for part in one)
  return {part: statistics.mean(one.get(part, 0.0) for one in times) for part in parts}

"""Series of numbers over epochs, from the metrics of a work directory."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flowkd_jax.report._average import GREATEST
from flowkd_jax.report._average import LEAST
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results

# Teacher of each network if the results do not name it: the first one that exists.
_USUAL_TEACHERS = {"student": ("auxiliary", "teacher"), "auxiliary": ("teacher",)}


class Series(NamedTuple):
  """Points of a line; those whose y is NaN are gaps.

  Attributes:
    x: Epochs, or another quantity.
    y: Values.
    band: Lower and upper limit of a band around the line, if there is one.
  """

  x: Float[np.ndarray, " points"]
  y: Float[np.ndarray, " points"]
  band: Float[np.ndarray, "2 points"] | None = None

  def times(self, factor: float) -> "Series":
    """The line and its band in another unit."""
    band = None if self.band is None else factor * self.band
    return Series(self.x, factor * self.y, band)


def stages_with(metrics: MetricLog, prefix: str) -> list[str]:
  """Stages that have a key which begins with `prefix`, in order of training."""
  stages = dict.fromkeys(entry["stage"] for entry in metrics)
  return [stage for stage in stages if endings(metrics, stage, prefix)]


def endings(metrics: MetricLog, stage: str, prefix: str) -> list[str]:
  """Parts after `prefix` of the keys of a stage: taps from input to output."""
  keys = dict.fromkeys(
    key for entry in metrics if entry["stage"] == stage for key in entry
  )
  found = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
  # Metrics of a step come out of a compiled function, which sorts their names;
  # information flow is measured in the order of the network.
  measured = [key.split("/", 2)[-1] for key in keys if key.startswith("qmi/")]
  depths = {tap: depth for depth, tap in enumerate(dict.fromkeys(measured))}
  return sorted(found, key=lambda name: depths.get(name, len(depths)))


def terms(metrics: MetricLog) -> tuple[list[str], list[str]]:
  """Taps of all networks that have diagnostics or losses, and loss terms of no tap.

  Taps are in the order of their depth in their network, so that they can have one
  colour in all panels. Where no information flow was measured the depth is unknown:
  then all names count as taps.

  Args:
    metrics: Metrics of `read_metrics`.
  """
  depths: dict[str, float] = {}
  others: dict[str, None] = {}
  for stage in dict.fromkeys(entry["stage"] for entry in metrics):
    measured = [key.split("/", 1)[-1] for key in endings(metrics, stage, "qmi/")]
    taps = list(dict.fromkeys(measured))
    for prefix in ("loss/", "gradient/", "cka/", "dead/"):
      for name in endings(metrics, stage, prefix):
        if name in taps:
          depths.setdefault(name, (taps.index(name) + 1) / len(taps))
        else:
          others[name] = None
  if not depths:
    return list(others), []
  rest = [name for name in others if name not in depths]
  return sorted(depths, key=depths.__getitem__), rest


def series(metrics: MetricLog, stage: str, key: str) -> Series:
  """The values of `key` in a stage over epochs trained; 0 is before training."""
  entries = [entry for entry in metrics if entry["stage"] == stage and key in entry]
  entries.sort(key=lambda entry: entry["epoch"])
  values = [np.nan if entry[key] is None else entry[key] for entry in entries]
  epochs = [entry["epoch"] + 1 for entry in entries]
  limits = [f"{LEAST}{key}", f"{GREATEST}{key}"]
  band = None
  if entries and all(limit in entry for entry in entries for limit in limits):
    band = np.array([[entry[limit] for entry in entries] for limit in limits], float)
  return Series(np.array(epochs, float), np.array(values, float), band)


def last(line: Series) -> float:
  """The last value that is a number; NaN if there is none."""
  finite = line.y[np.isfinite(line.y)]
  return float(finite[-1]) if finite.size else np.nan


def network_titles(metrics: MetricLog, results: Results) -> dict[str, str]:
  """Title of each network, by name; results come with titles."""
  names = [entry["stage"] for entry in metrics]
  titles = {name: name.replace("_", " ") for name in names}
  for network in results:
    titles[network["name"]] = network.get("title") or network["name"]
  return titles


def teachers_of(metrics: MetricLog, results: Results) -> dict[str, str]:
  """Name of the teacher of each network that has one."""
  stages = {entry["stage"] for entry in metrics}
  teachers = {}
  for student, usual in _USUAL_TEACHERS.items():
    present = [teacher for teacher in usual if teacher in stages]
    if student in stages and present:
      teachers[student] = present[0]
  for network in results:
    if "teacher" in network:
      teachers[network["name"]] = network["teacher"]
  return {student: teacher for student, teacher in teachers.items() if teacher}


def corresponding(position: int, taps: int, taps_there: int) -> int:
  """Index of the tap at the same relative depth; first to first, last to last."""
  if taps == 1:
    return taps_there - 1
  return round(position * (taps_there - 1) / (taps - 1))

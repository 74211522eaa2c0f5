"""Means over runs with the range of values, for more runs than can be drawn."""

import math
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results
from flowkd_jax.report._read import retrieval_curve

# What precedes a key in the entries of `mean_metrics`; no key of a job begins so.
LEAST, GREATEST = "least ", "greatest "
# Meaning of the band that is drawn of them.
BAND = "least to greatest value of the runs, the line being their mean"

_POSITION = ("stage", "epoch", "step")


def mean_metrics(logs: Sequence[MetricLog]) -> list[dict[str, Any]]:
  """Combine the logs of several runs: mean, minimum and maximum of each number.

  The result has an entry for each stage and epoch of any run. A mean is taken over the
  runs with a finite number. "least KEY" and "greatest KEY" hold the range.

  Args:
    logs: Metrics of `read_metrics`, one for each run.
  """
  found: dict[tuple[str, int], dict[str, list[float]]] = {}
  stages = dict.fromkeys(entry["stage"] for log in logs for entry in log)
  for log in logs:
    for entry in log:
      values = found.setdefault((entry["stage"], entry["epoch"]), {})
      for key, value in _numbers(entry):
        values.setdefault(key, []).append(value)
  order = {stage: number for number, stage in enumerate(stages)}
  return [
    {"stage": stage, "epoch": epoch, **_range(found[stage, epoch])}
    for stage, epoch in sorted(found, key=lambda place: (order[place[0]], place[1]))
  ]


def _numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
  for key, value in entry.items():
    if key not in _POSITION and isinstance(value, int | float) and math.isfinite(value):
      yield key, value


def _range(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
  entry = {}
  for key, numbers in values.items():
    entry[key] = math.fsum(numbers) / len(numbers)
    entry[f"{LEAST}{key}"], entry[f"{GREATEST}{key}"] = min(numbers), max(numbers)
  return entry


def mean_results(runs: Sequence[Results]) -> list[dict[str, Any]]:
  """Networks of several runs by name: title, teacher, mean retrieval and mean times.

  Args:
    runs: Results of `read_results`, one for each run.
  """
  networks: dict[str, list[Mapping[str, Any]]] = {}
  for results in runs:
    for network in results:
      networks.setdefault(network["name"], []).append(network)
  return [
    {
      **{key: alike[0][key] for key in ("name", "title", "teacher") if key in alike[0]},
      "retrieval": _mean_retrieval(alike),
      "times": _mean_times([one["times"] for one in alike if one.get("times")]),
    }
    for alike in networks.values()
  ]


def _mean_times(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Mean seconds of each part over the runs that recorded them."""
  parts = dict.fromkeys(part for one in times for part in one)
  return {
    part: math.fsum(one.get(part, 0.0) for one in times) / len(times) for part in parts
  }


def _mean_retrieval(networks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  distances = dict.fromkeys(
    distance for network in networks for distance in network.get("retrieval") or {}
  )
  curves = {
    distance: [
      curve
      for network in networks
      if (curve := retrieval_curve(network, distance)) is not None
    ]
    for distance in distances
  }
  return {distance: _mean_curve(found) for distance, found in curves.items() if found}


def _mean_curve(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Mean of those at the same levels of recall as the first."""
  levels = curves[0]["recall_levels"]
  alike = [curve for curve in curves if curve["recall_levels"] == levels]
  precision = np.array([curve["precision"] for curve in alike], float)
  averages = [curve["mean_average_precision"] for curve in alike]
  return {
    "mean_average_precision": math.fsum(averages) / len(averages),
    "recall_levels": levels,
    "precision": precision.mean(axis=0),
    f"{LEAST}precision": precision.min(axis=0),
    f"{GREATEST}precision": precision.max(axis=0),
  }

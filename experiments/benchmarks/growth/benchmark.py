"""Settings, processes and table of the benchmark of growth."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks import measurement
from experiments.benchmarks.growth import cases
from flowkd_jax.jobs import fields

_QUANTITIES = ("first", "again", "processor", "mib")
_MEASURE = "from experiments.benchmarks.growth import cases; cases.print_measured()"
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the benchmark."""

  cases: tuple[str, ...] = fields.setting(
    tuple(cases.CASES), "Cases to measure.", choices=tuple(cases.CASES)
  )
  sizes: tuple[int, ...] = fields.setting(
    (), "Sizes for all cases. Without the flag: the sizes of each case.", least=1
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a case is unknown or a size below 1.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Measures and prints a line for each case."""
  measurement.use_device(config.device)
  if config.device == "cpu":  # for the processes in which the cases run
    os.environ["JAX_PLATFORMS"] = "cpu"
  environment = measurement.environment()
  print(measurement.heading(environment))
  print(
    "\n| case | grows | sizes | first call s | second call s | processor s | MiB | "
    "exponents |\n|---|---|---|---|---|---|---|---|"
  )
  records = []
  for name in config.cases:
    sizes = config.sizes or cases.CASES[name].sizes
    record = {"case": name, "sizes": sizes, "points": _points(name, sizes)}
    records.append(record)
    print(line(record), flush=True)
  measurement.write(config, environment, {"records": records})


def _points(name: str, sizes: Sequence[int]) -> list[dict[str, float]]:
  """Measurements of a case, each size in a process of its own."""
  points = []
  for size in sizes:
    command = [sys.executable, "-c", _MEASURE, name, str(size)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    points.append(json.loads(result.stdout.splitlines()[-1]))
  return points


def line(record: Record) -> str:
  """A row of the table; the last cell has the exponents of the four columns."""
  points, sizes = record["points"], record["sizes"]
  columns = [[point[name] for point in points] for name in _QUANTITIES]
  cells = [record["case"], cases.CASES[record["case"]].grows, _listed(sizes, ",")]
  cells += [_listed(column, ".3g") for column in columns]
  cells += [_listed([exponent(sizes, column) for column in columns], ".1f")]
  return f"| {' | '.join(cells)} |"


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
  """The k of the best fit `value = c size^k`; NaN if there is one size."""
  if len(sizes) < 2:
    return float("nan")
  # Memory below a page would give an exponent of minus infinity.
  logs = np.log(np.maximum(values, 1e-3))
  return float(np.polyfit(np.log(sizes), logs, 1)[0])


def _listed(values: Sequence[float], form: str) -> str:
  return ", ".join(format(value, form).replace(",", " ") for value in values)

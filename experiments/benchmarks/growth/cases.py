"""All cases of the benchmark of growth, by name."""

import json
import sys
from collections.abc import Mapping

from experiments.benchmarks.growth import core
from experiments.benchmarks.growth import devices
from experiments.benchmarks.growth import runs
from experiments.benchmarks.growth import storing
from experiments.benchmarks.growth.case import Case
from experiments.benchmarks.growth.case import measure

# One line for each module of cases.
CASES: Mapping[str, Case] = {
  **core.CASES,
  **devices.CASES,
  **runs.CASES,
  **storing.CASES,
}


def print_measured() -> None:
  """Prints the measurement of the case and size in the command line as JSON."""
  name, size = sys.argv[1:]
  print(json.dumps(measure(CASES[name], int(size))))

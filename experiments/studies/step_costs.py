"""Estimated time of runs, from the sizes of their steps and from measured epochs.

`experiments/results/papers/steps.json`, which `experiments.studies.step_shapes` writes,
has the stages of each launch. A stage has its epochs, its steps per epoch, and the
operations, convolutions and products of a step, from its program before compilation.
The time on an H100 is estimated from these numbers and from measurements on an H100:
the number of kernels limits small networks, operations limit large ones. Messages say
that the time is an estimate. If epochs of a run were timed, the measured time is used.
"""

import functools
import json
import statistics
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flowkd_jax.jobs import stages

FILE = Path(__file__).parents[1] / "results" / "papers" / "steps.json"
# One H100, float32, batches of 128, steps within one program: ResNet-18 takes 4.89 ms,
# for 372 GFLOP; ResNet-20 takes 2.66 ms, with 60 convolutions; CNN1 on labels and from
# CNN1-A, whose convolutions are products, 0.285 ms with 14 and 0.567 ms with 75.
_OPERATIONS_A_SECOND = 7.6e13
_OF_CONVOLUTION, _OF_PRODUCT = 4.4e-5, 1e-5  # seconds
SECONDS_OF_STAGE = 25.0  # compiling, and measuring at the end


class StageCost(NamedTuple):
  """Size of a stage of a launch.

  Attributes:
    stage: Name of the stage.
    epochs: Number of epochs.
    steps: Steps of an epoch.
    operations: Operations of a step.
    convolutions: Convolutions in the program of a step.
    products: Number of matrix products.
    gib: Memory of a step in GiB, None if it was not compiled.
    program: Hash of the program of a step without its constants.
    taken: Steps that were taken on CPU.
    finite: True if all numbers in these steps were finite, None if there was no step.
    cpu_seconds: Seconds of the last of these steps on the processor in use.
  """

  stage: str
  epochs: int
  steps: int
  operations: float
  convolutions: int
  products: int = 0
  gib: float | None = None
  program: str = ""
  taken: int = 0
  finite: bool | None = None
  cpu_seconds: float | None = None

  @property
  def epoch_seconds(self) -> float:
    """Estimated seconds of an epoch on an H100."""
    kernels = self.convolutions * _OF_CONVOLUTION + self.products * _OF_PRODUCT
    return self.steps * max(kernels, self.operations / _OPERATIONS_A_SECOND)


Costs = Mapping[str, Sequence[StageCost]]  # by STUDY/RUN


class Left(NamedTuple):
  """Remaining time of a run.

  Attributes:
    seconds: Seconds, None if nothing is known.
    measured: True if epochs of this run were timed.
  """

  seconds: float | None
  measured: bool = False


@functools.cache
def read() -> Costs:
  """The costs of all launches that are known."""
  if not FILE.exists():
    return {}
  content = json.loads(FILE.read_text())
  return {
    name: tuple(StageCost(**one) for one in found) for name, found in content.items()
  }


def epochs(folder: Path) -> dict[str, dict[int, float]]:
  """Seconds of the epochs that a run has finished, by stage.

  Args:
    folder: Work directory, which need not exist.
  """
  found: dict[str, dict[int, float]] = {}
  path = folder / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  for line in lines:
    try:
      entry = json.loads(line)
    except ValueError:  # incomplete line: the run is writing it or was killed
      continue
    if entry.get("epoch", -1) >= 0:
      seconds = found.setdefault(entry["stage"], {})
      seconds[entry["epoch"]] = entry.get("seconds") or 0.0
  return found


def done(folder: Path, costs: Sequence[StageCost]) -> float:
  """Estimated seconds of the epochs that a run has finished; 1 each if unknown."""
  known = {cost.stage: cost.epoch_seconds for cost in costs}
  return sum(
    len(each) * known.get(stage, 1.0) for stage, each in epochs(folder).items()
  )


def left(folder: Path, costs: Sequence[StageCost], factor: float = 1.0) -> Left:
  """Remaining seconds of a run.

  Args:
    folder: Work directory.
    costs: Costs of the stages, empty if they are unknown.
    factor: Measured over estimated time of other runs on this device.
  """
  if not costs:
    return Left(None)
  timed = epochs(folder)
  own = factor_of([(folder, costs)])
  seconds = 0.0
  for cost in costs:
    if stages.is_done(folder, cost.stage):
      continue
    each = _typical(timed.get(cost.stage, {}))
    if each is None:
      each = cost.epoch_seconds * (own or factor)
    seconds += each * (cost.epochs - len(timed.get(cost.stage, {}))) + SECONDS_OF_STAGE
  return Left(seconds, own is not None)


def factor_of(runs: Sequence[tuple[Path, Sequence[StageCost]]]) -> float | None:
  """Median ratio of measured to estimated seconds of an epoch; None without timings.

  Args:
    runs: Work directories and their stages.
  """
  factors = []
  for folder, costs in runs:
    timed = epochs(folder)
    for cost in costs:
      seconds = _typical(timed.get(cost.stage, {}))
      if seconds and cost.epoch_seconds:
        factors.append(seconds / cost.epoch_seconds)
  return statistics.median(factors) if factors else None


def _typical(seconds: Mapping[int, float]) -> float | None:
  """Median without the first epoch, which compiles; None without further epochs."""
  later = [each for epoch, each in seconds.items() if epoch > 0 and each > 0]
  return statistics.median(later) if later else None

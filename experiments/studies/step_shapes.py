r"""A training step of every launch of a study, at its real shapes, without training.

    python -m experiments.studies.step_shapes --data_dir=D               # all of papers
    python -m experiments.studies.step_shapes --data_dir=D --steps=2 \
        --studies=papers_similarity --runs=r56_r20

The result has the epochs and steps of each stage, and the operations, convolutions and
matrix products of a step, from the program before compilation. With `--compile` it also
has the memory of the compiled step (`memory_analysis`), with the limits of an H100 and
of a TPU chip. With `--steps=N` it says if metrics and parameters are finite after N
steps on images of the data set, with random weights for teachers. On a CPU this takes
minutes for each large network. Steps whose programs differ only in constants, such as
rates, are compiled and executed once. `--write` stores each number at once. `run_queue`
estimates times from the stored numbers, `experiments.tables.update` makes a table of
them, and a later call does not measure them again.
"""

import dataclasses
import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from experiments.studies import catalogue
from experiments.studies import estimates
from experiments.studies import papers
from experiments.studies import rehearsal
from experiments.studies import run as driver
from experiments.studies import step_costs
from flowkd_jax import _files
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import places

H100_GIB, TPU_GIB = 70.0, 14.0
_MEASURED = ("gib", "taken", "finite", "cpu_seconds")


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the rehearsal."""

  studies: tuple[str, ...] = fields.setting(
    tuple(dict.fromkeys(part.study for part in papers.QUEUE)),
    "Studies whose launches are measured.",
  )
  runs: tuple[str, ...] = fields.setting(
    (), "Names of launches of the studies in --studies. Without the flag: all."
  )
  data_dir: str = fields.setting(
    "data",
    "Folder in which tensorflow-datasets are prepared.",
    place=places.PERHAPS_FOLDER,
  )
  compile: bool = fields.setting(
    False, "Compile each step, and show the memory that it needs."
  )
  steps: int = fields.setting(
    0, "Steps to take from the initial state, checked to be finite.", least=0
  )
  write: bool = fields.setting(
    False, f"Keep the numbers in {step_costs.FILE.name} among the results."
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If there is no such study or launch.
  """
  config = fields.configured(Config, given)
  for name in config.studies:
    limits.check_choice("--studies", name, tuple(catalogue.STUDIES))
  known = [
    run.name for name in config.studies for run in catalogue.STUDIES[name].launches
  ]
  for name in config.runs:
    limits.check_choice("--runs", name, known)
  return config


def run(config: Config) -> None:
  """Measures the steps of all launches and prints the findings.

  Raises:
    ValueError: If a step is not finite or needs too much memory. Raised after all
      launches.
  """
  kept = {name: [*costs] for name, costs in step_costs.read().items()}
  wrong: list[str] = []
  for name in config.studies:
    for job in _one_seed(config, name):
      launch_name = f"{name}/{job.folder.parent.name}"
      before = {cost.stage: cost for cost in kept.get(launch_name, ())}
      found: dict[str, step_costs.StageCost] = {}
      for step in rehearsal.steps(job.command[len(driver.COMMAND) :]):
        cost = _measured(config, step, before.get(step.cost.stage), kept)
        found[cost.stage] = cost
        # Numbers of later stages stay until they are measured.
        kept[launch_name] = [*(before | found).values()]
        problem = problem_of(cost)
        print(_line(launch_name, cost, problem), flush=True)
        if problem:
          wrong.append(f"{launch_name}, {cost.stage}: {problem}")
        if config.write:
          _write(kept)
      kept[launch_name] = [*found.values()]
      if config.write:
        _write(kept)
  if wrong:
    raise ValueError(f"{len(wrong)} stages: {'; '.join(wrong)}")


def problem_of(cost: step_costs.StageCost) -> str:
  """Problem of a step by the numbers that were measured; "" for none.

  Args:
    cost: The step.
  """
  if cost.gib is not None and cost.gib > H100_GIB:
    return f"needs {cost.gib} GiB, more than {H100_GIB:g}"
  if cost.finite is False:
    return "metrics or parameters are not finite"
  return ""


def _one_seed(config: Config, name: str):
  given = {"study": name, "seeds": ("0",), "data_dir": config.data_dir}
  found = driver.jobs(driver.Config(**given, workdir="/nowhere"))
  return [
    job for job in found if not config.runs or job.folder.parent.name in config.runs
  ]


def _measured(
  config: Config,
  step: rehearsal.Step,
  before: step_costs.StageCost | None,
  kept: Mapping[str, Sequence[step_costs.StageCost]],
) -> step_costs.StageCost:
  """The cost of a step with all its measured numbers, earlier and new."""
  cost = step.cost
  same = [each for found in kept.values() for each in found if _is_same(each, cost)]
  if before is not None and before.program:
    before = None  # numbers of another program, unless it is in `same`
  known = max(same, key=lambda each: (each.taken, each.gib is not None), default=before)
  if known is not None:
    cost = cost._replace(**{name: getattr(known, name) for name in _MEASURED})
  has_memory = cost.gib is not None and known in same
  if cost.taken >= config.steps and (has_memory or not config.compile):
    return cost
  compiled = step.lowered.compile()
  cost = cost._replace(gib=rehearsal.gib(compiled), taken=0, finite=None)
  if not config.steps or problem_of(cost):
    return cost
  taken, finite, seconds = step.take(compiled, config.steps)
  return cost._replace(taken=taken, finite=finite, cpu_seconds=round(seconds, 3))


def _is_same(one: step_costs.StageCost, other: step_costs.StageCost) -> bool:
  """True if the numbers of one step hold for the other.

  The rate is a constant of the program, and a step may diverge because of its rate.
  """
  return bool(one.program) and one.program == other.program and one.finite is not False


def _line(launch_name: str, cost: step_costs.StageCost, problem: str) -> str:
  hours = estimates.in_words(cost.epochs * cost.epoch_seconds)
  measured = ""
  if cost.gib is not None:
    fits = "fits" if cost.gib <= TPU_GIB else "does not fit"
    measured = f", {cost.gib:.2f} GiB ({fits} into {TPU_GIB:g})"
  if cost.taken:
    measured += f", {cost.taken} steps taken, the last in {cost.cpu_seconds} s"
  return (
    f"{launch_name}, {cost.stage}: {cost.epochs} x {cost.steps} steps, "
    f"{cost.operations / 1e9:.4g} GFLOP, {cost.convolutions} convolutions and "
    f"{cost.products} products"
    f"{measured}; about {hours} on an H100 (an estimate)"
    f"{f'; WRONG: {problem}' if problem else ''}"
  )


def _write(kept: dict[str, list[step_costs.StageCost]]) -> None:
  lines = ",\n".join(
    f"{json.dumps(name)}: [\n"
    + ",\n".join(json.dumps(cost._asdict()) for cost in costs)
    + "]"
    for name, costs in sorted(kept.items())
  )
  _files.write_text(step_costs.FILE, f"{{\n{lines}\n}}\n")
  step_costs.read.cache_clear()


if __name__ == "__main__":
  launch.launch(Config, configure, run)

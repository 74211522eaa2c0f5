"""Table of the training steps of a queue: sizes, memory, and steps executed on CPU.

`experiments.studies.step_shapes --write` stores the numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.studies import catalogue
from experiments.studies import estimates
from experiments.studies import run as driver
from experiments.studies import spec
from experiments.studies import step_costs
from flowkd_jax import report

NAME = "table: papers_steps"
TPU_GIB = 14.0
_HEADINGS = (
  "study",
  "launches",
  "different steps",
  "largest, GFLOP",
  "compiled",
  "most memory, GiB",
  "executed on CPU",
  "all finite",
  "slowest on CPU, s",
  "all seeds on an H100, estimate",
)
_DASH = "–"


class _Named(NamedTuple):
  """A stage and its name STUDY/RUN, stage."""

  name: str
  cost: step_costs.StageCost


def table(parts: Sequence[spec.Part], costs: step_costs.Costs) -> str:
  """The table in Markdown, with one row per study, and sentences on gaps below it.

  Args:
    parts: Parts of the queue.
    costs: Costs of launches by STUDY/RUN.
  """
  names = dict.fromkeys(part.study for part in parts)
  rows = [_row(name, parts, costs) for name in names]
  lines = report.markdown_table(_HEADINGS, rows)
  return f"{lines}\n\n{_gaps([*names], costs)}"


def _row(name: str, parts: Sequence[spec.Part], costs: step_costs.Costs) -> list[str]:
  steps = _different(_stages(name, costs))
  compiled = [step.cost.gib for step in steps if step.cost.gib is not None]
  taken = [step.cost for step in steps if step.cost.taken]
  finite = all(cost.finite for cost in taken)
  return [
    name,
    str(len(catalogue.STUDIES[name].launches)),
    str(len(steps)) if steps else _DASH,
    f"{max(step.cost.operations for step in steps) / 1e9:.0f}" if steps else _DASH,
    f"{len(compiled)}",
    f"{max(compiled):.2f}" if compiled else _DASH,
    f"{len(taken)}",
    (("yes" if finite else "no") if taken else _DASH),
    f"{max(cost.cpu_seconds or 0 for cost in taken):.1f}" if taken else _DASH,
    _hours(name, parts, costs),
  ]


def _hours(name: str, parts: Sequence[spec.Part], costs: step_costs.Costs) -> str:
  """Estimated time of all launches and seeds of a study in the queue."""
  seconds, unknown = 0.0, 0
  for part in parts:
    if part.study != name:
      continue
    seeds = len(part.seeds or driver.Config.seeds)
    for run in catalogue.STUDIES[name].launches:
      if part.runs and run.name not in part.runs:
        continue
      found = costs.get(f"{name}/{run.name}", ())
      unknown += not found
      each = sum(cost.epochs * cost.epoch_seconds for cost in found)
      seconds += seeds * (each + step_costs.SECONDS_OF_STAGE * len(found))
  if not seconds:
    return _DASH
  more = f", {unknown} launches not known" if unknown else ""
  return f"{estimates.in_words(seconds)}{more}"


def _stages(name: str, costs: step_costs.Costs) -> list[_Named]:
  return [
    _Named(f"{name}/{run.name}, {cost.stage}", cost)
    for run in catalogue.STUDIES[name].launches
    for cost in costs.get(f"{name}/{run.name}", ())
  ]


def _different(stages: Sequence[_Named]) -> list[_Named]:
  """One stage for each program: of equal stages, the one with the most numbers."""
  found: dict[str, _Named] = {}
  for stage in stages:
    program = stage.cost.program or stage.name
    other = found.get(program)
    if other is None or _known(stage.cost) > _known(other.cost):
      found[program] = stage
  return [*found.values()]


def _known(cost: step_costs.StageCost) -> tuple[int, bool]:
  return cost.taken, cost.gib is not None


def _gaps(names: Sequence[str], costs: step_costs.Costs) -> str:
  """Sentences on steps that need much memory, or were not compiled or executed."""
  steps = [step for name in names for step in _different(_stages(name, costs))]
  large = [step for step in steps if (step.cost.gib or 0) > TPU_GIB]
  wrong = [step for step in steps if step.cost.finite is False]
  compiled = [step for step in steps if step.cost.gib is not None]
  taken = [step for step in steps if step.cost.taken]
  only_compiled = [step for step in compiled if step not in taken]
  without = [step for step in steps if step not in compiled]
  return " ".join(
    (
      f"{len(steps)} different steps: {len(compiled)} compiled, {len(taken)} executed.",
      f"More than {TPU_GIB:g} GiB: {_listed(large, steps)}.",
      f"Not finite: {_listed(wrong, steps)}.",
      f"Compiled but not executed: {_listed(only_compiled, steps)}.",
      f"Not compiled: {_listed(without, steps)}.",
    )
  )


def _listed(some: Sequence[_Named], steps: Sequence[_Named]) -> str:
  """Names of steps: `STUDY`, or `STUDY/RUN` if all of it, or with `(stage, stage)`."""
  shown: dict[str, list[str]] = {}
  for step in some:
    study = step.name.partition("/")[0]
    launch, _, stage = step.name.partition(", ")
    if _all_below(study + "/", some, steps):
      shown[study] = []
    elif _all_below(launch + ",", some, steps):
      shown[launch] = []
    else:
      shown.setdefault(launch, []).append(stage)
  listed = (f"{name} ({', '.join(of)})" if of else name for name, of in shown.items())
  return "; ".join(listed) or "none"


def _all_below(start: str, some: Sequence[_Named], steps: Sequence[_Named]) -> bool:
  return all(step in some for step in steps if step.name.startswith(start))

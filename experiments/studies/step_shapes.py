r"""A training step of every launch of a study, at its real shapes, without training.

    python -m experiments.studies.step_shapes --data_dir=D               # all of papers
    python -m experiments.studies.step_shapes --data_dir=D --steps=2 \
        --studies=papers_similarity --runs=r56_r20

For each stage: epochs, steps, and of a step the operations, convolutions and products
(from the program before it is compiled); with `--compile` the memory that the compiled
step needs (`memory_analysis`) beside the limits of an H100 and of a TPU chip; with
`--steps` whether metrics and parameters are finite after so many steps. On CPU that
takes minutes for each large network. `--write` keeps the numbers, from which
`run_queue` estimates times; memory that was measured before is kept where it is not
measured again.
"""

import contextlib
import dataclasses
import functools
import json
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from absl import flags
from jax import lax

from experiments.studies import catalogue
from experiments.studies import estimates
from experiments.studies import papers
from experiments.studies import run as driver
from experiments.studies import step_costs
from flowkd_jax import _files
from flowkd_jax import data
from flowkd_jax import jobs
from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.cli import parsing
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import places
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

H100_GIB, TPU_GIB = 70.0, 14.0
# Networks that come from another launch are not trained in this one.
_TAKEN = ("teacher", "auxiliary_labels", "auxiliary")


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the rehearsal."""

  studies: tuple[str, ...] = fields.setting(
    tuple(dict.fromkeys(part.study for part in papers.QUEUE)),
    "Studies whose launches are looked at.",
  )
  runs: tuple[str, ...] = fields.setting(
    (), "Launches, by name, of the studies in --studies. Without the flag: all."
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
  """Settings, with those that are given.

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
  """Looks at one launch after another, and says what was found.

  Raises:
    ValueError: If a step is not finite or needs too much memory, when all are seen.
  """
  kept = {name: [*costs] for name, costs in step_costs.read().items()}
  wrong: list[str] = []
  for name in config.studies:
    for job in _one_seed(config, name):
      launch_name = f"{name}/{job.folder.parent.name}"
      found = []
      for cost, problem in _costs(config, job.command):
        found.append(cost)
        print(_line(launch_name, cost, problem), flush=True)
        if problem:
          wrong.append(f"{launch_name}, {cost.stage}: {problem}")
      kept[launch_name] = _with_memory(found, kept.get(launch_name, []))
      if config.write:
        _write(kept)
  if wrong:
    raise ValueError(f"{len(wrong)} stages: {'; '.join(wrong)}")


def _one_seed(config: Config, name: str):
  given = {"study": name, "seeds": ("0",), "data_dir": config.data_dir}
  found = driver.jobs(driver.Config(**given, workdir="/nowhere"))
  return [
    job for job in found if not config.runs or job.folder.parent.name in config.runs
  ]


def _costs(
  config: Config, command: Sequence[str]
) -> Iterator[tuple[step_costs.StageCost, str]]:
  """Costs of the stages of a launch, each with what is wrong or an empty text."""
  job_name, *arguments = command[len(driver.COMMAND) :]
  taken = any(flag.startswith("--networks_from=") for flag in arguments)
  with tempfile.TemporaryDirectory() as folder:
    job = jobs.load(job_name)
    values = flags.FlagValues()
    parsing.define_flags(job.Config, values)
    left_out = ("--networks_from=", "--workdir=", "--verbosity=")
    values(["program", *(flag for flag in arguments if not flag.startswith(left_out))])
    given = parsing.given_flags(job.Config, values)
    options = job.configure(**given, workdir=folder, parallelism="jit")
    for stage, training in _stages(job, options):
      if not (taken and stage.name in _TAKEN):
        yield _cost(config, options, stage, training)


def _stages(
  job: Any, options: settings.Settings
) -> list[tuple[stages.Stage, data.Batches]]:
  """Stages that a job would train, each with its batches."""
  found: list[tuple[stages.Stage, data.Batches]] = []

  def select_only(options, select, order):
    del order
    with mock.patch.object(data, "load", _load):
      shared = job_run.open_datasets(options, train.Progress())
    runner = job_run.stage_runner(
      options, shared, train.Progress(), runner_class=_Rehearsal
    )
    found.extend(
      (stage, stage.training or shared.training)
      for stage in select(runner)
      if isinstance(stage, stages.Stage)
    )
    raise _SelectedError

  with (
    mock.patch.object(job_run, "run_stages", select_only),
    contextlib.suppress(_SelectedError),
  ):
    job.run(options)
  return found


class _SelectedError(Exception):
  """The stages of a job are known, and it is not to run them."""


_LOAD = data.load


@functools.lru_cache(maxsize=6)
def _decoded(name: str, split: str, where: tuple[tuple[str, Any], ...]) -> data.Split:
  return _LOAD(name, split, **dict(where))


def _load(name: str, split: str, *, progress: Any = None, **where: Any) -> data.Split:
  """Loads a split that several launches may share; decoding takes its time."""
  del progress
  return _decoded(name, split, tuple(sorted(where.items())))


class _Rehearsal(stages.StageRunner):
  """Runner for which every stage is expected to be done before, by zeros."""

  writes = False

  def is_expected(self, name: str) -> bool:
    """Returns whether zeros stand for the network of a stage: always."""
    return True

  @property
  def is_checking(self) -> bool:
    """Tells that nothing may be computed or written."""
    return True


def _cost(
  config: Config,
  options: settings.Settings,
  stage: stages.Stage,
  training: data.Batches,
) -> tuple[step_costs.StageCost, str]:
  """The cost of a stage, and what is wrong with it or an empty text."""
  method = stage.make_method()
  example = jnp.zeros((2, *training.image_shape))
  initial = functools.partial(jax.jit(method.init), jax.random.key(0), example)
  rows = next(iter(training.epoch(0)))
  arguments = (method.constants, training.resident, rows)
  lowered = _step(method, training).lower(jax.eval_shape(initial), *arguments)
  text = lowered.as_text()
  analysis = lowered.cost_analysis() or {}
  # The steps of a client are a loop, which is counted once.
  repeats = getattr(options, "local_steps", 1)
  cost = step_costs.StageCost(
    stage.name,
    stage.epochs,
    training.steps_per_epoch,
    float(analysis.get("flops", 0.0)) * repeats,
    text.count("stablehlo.convolution") * repeats,
    text.count("stablehlo.dot_general") * repeats,
  )
  if not (config.compile or config.steps):
    return cost, ""
  compiled = lowered.compile()
  gib = round(_bytes(compiled) / 2**30, 6)
  cost = cost._replace(gib=gib)
  if gib > H100_GIB:
    return cost, f"needs {gib} GiB, more than {H100_GIB:g}"
  state = initial() if config.steps else None
  for _ in range(config.steps):
    state, metrics = compiled(state, *arguments)
    numbers = [x for x in jax.tree.leaves((state, metrics)) if _is_float(x)]
    if not all(jnp.isfinite(x).all() for x in numbers):
      return cost, "metrics or parameters are not finite"
  return cost, ""


def _step(method: methods.Method, training: data.Batches) -> Any:
  """The step that the training loop takes."""

  def step(state, constants, resident, rows):
    prepared = lax.optimization_barrier(training.prepare(resident, rows))
    return method.update(state, prepared, constants)

  return jax.jit(step, donate_argnums=0)


def _is_float(array: jax.Array) -> bool:
  return jnp.issubdtype(array.dtype, jnp.floating)


def _bytes(compiled: Any) -> int:
  """Memory of a step, arguments and results included."""
  sizes = compiled.memory_analysis()
  results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  return sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + results


def _line(launch_name: str, cost: step_costs.StageCost, problem: str) -> str:
  hours = estimates.in_words(cost.epochs * cost.epoch_seconds)
  memory = ""
  if cost.gib is not None:
    fits = "fits" if cost.gib <= TPU_GIB else "does not fit"
    memory = f", {cost.gib:.2f} GiB ({fits} into {TPU_GIB:g})"
  return (
    f"{launch_name}, {cost.stage}: {cost.epochs} x {cost.steps} steps, "
    f"{cost.operations / 1e9:.4g} GFLOP, {cost.convolutions} convolutions and "
    f"{cost.products} products"
    f"{memory}; about {hours} on an H100 (an estimate)"
    f"{f'; WRONG: {problem}' if problem else ''}"
  )


def _with_memory(
  found: Sequence[step_costs.StageCost], before: Sequence[step_costs.StageCost]
) -> list[step_costs.StageCost]:
  """Costs with the memory that was measured before where it was not measured now."""
  memory = {cost.stage: cost.gib for cost in before}
  return [
    cost if cost.gib is not None else cost._replace(gib=memory.get(cost.stage))
    for cost in found
  ]


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

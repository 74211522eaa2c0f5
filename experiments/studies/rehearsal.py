"""Training steps of a launch at their real shapes, without training.

`steps` makes the stages that a launch would train, from the flags of its command and
the data in the data folder. Networks of earlier stages have random weights.
"""

import dataclasses
import functools
import hashlib
import itertools
import re
import tempfile
import time
import zlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax import lax

from experiments.studies import step_costs
from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import jobs
from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.cli import parsing
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

# Another launch trains these networks.
_TAKEN = ("teacher", "auxiliary_labels", "auxiliary")
_CONSTANT = re.compile(r"dense<[^>]*>")


class Outcome(NamedTuple):
  """Result of training steps.

  Attributes:
    taken: Number of steps.
    finite: True if all metrics and parameters were finite.
    seconds: Seconds of the last step.
  """

  taken: int
  finite: bool
  seconds: float


@dataclasses.dataclass(frozen=True)
class Step:
  """Step of a stage.

  Attributes:
    cost: Size of the stage and its step, its program by a hash.
    lowered: Program of the step, not compiled.
    initial: `() -> state` before the first step.
    constants: Constants of the method, such as its teacher.
    training: Batches of the stage.
  """

  cost: step_costs.StageCost
  lowered: Any
  initial: Any
  constants: Any
  training: data.Batches

  def take(self, compiled: Any, number: int) -> Outcome:
    """Takes steps from the initial state on the first batches of the run.

    Args:
      compiled: The compiled program.
      number: Number of steps, 1 or more.
    """
    state, finite, seconds, taken = self.initial(), True, 0.0, 0
    resident = self.training.resident
    epochs = map(self.training.epoch, range(self.cost.epochs))
    for rows in itertools.islice(itertools.chain.from_iterable(epochs), number):
      began = time.perf_counter()
      state, metrics = compiled(state, self.constants, resident, rows)
      numbers = [x for x in jax.tree.leaves((state, metrics)) if _is_float(x)]
      finite = finite and all(bool(jnp.isfinite(x).all()) for x in numbers)
      seconds, taken = time.perf_counter() - began, taken + 1
    return Outcome(taken, finite, seconds)


def steps(command: Sequence[str]) -> Iterator[Step]:
  """Steps of the stages that a launch would train.

  Args:
    command: Training job and its flags.
  """
  job_name, *arguments = command
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
        yield _step(options, stage, training)


def gib(compiled: Any) -> float:
  """Memory of a compiled step in GiB, arguments and results included."""
  sizes = compiled.memory_analysis()
  results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  number = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + results
  return round(number / 2**30, 6)


def program_hash(text: str) -> str:
  """Hash of a program without its constants.

  Programs that differ only in constants, such as rates and the ends of their phases,
  need the same memory.

  Args:
    text: The program in StableHLO.
  """
  shapes = _CONSTANT.sub("dense<>", text)
  return hashlib.sha256(shapes.encode()).hexdigest()[:12]


def _stages(
  job: Any, options: settings.Settings
) -> list[tuple[stages.Stage, data.Batches]]:
  """Stages that a job would train, each with its batches."""
  progress = train.Progress()
  datasets = job_run.open_datasets(options, progress, load=_load)
  runner = job_run.stage_runner(options, datasets, progress, runner_class=_Rehearsal)
  return [
    (stage, stage.training or datasets.training)
    for stage in job.select(options, runner)
    if isinstance(stage, stages.Stage)
  ]


@functools.lru_cache(maxsize=6)
def _decoded(name: str, split: str, where: tuple[tuple[str, Any], ...]) -> data.Split:
  return data.load(name, split, **dict(where))


def _load(name: str, split: str, *, progress: Any = None, **where: Any) -> data.Split:
  """Loads a split once for all launches that share it, because decoding is slow."""
  del progress
  return _decoded(name, split, tuple(sorted(where.items())))


class _Rehearsal(stages.StageRunner):
  """Runner that treats every stage as finished, with random weights."""

  writes = False

  def is_expected(self, name: str) -> bool:
    """Returns True: random weights replace the network of every stage."""
    return True

  @property
  def is_checking(self) -> bool:
    """Returns True: nothing may be computed or written."""
    return True

  def network(
    self, name: str, model: capture.AnyModel, exported: str = "network"
  ) -> methods.Network:
    """The network of a stage with initial weights."""
    blank = super().network(name, model, exported)
    images = jnp.zeros((2, *self.datasets.training.image_shape))
    key = jax.random.key(zlib.crc32(name.encode()))
    variables = jax.jit(functools.partial(capture.init, model))(key, images)
    return blank._replace(variables=variables)


def _step(
  options: settings.Settings, stage: stages.Stage, training: data.Batches
) -> Step:
  method = stage.make_method()
  example = jnp.zeros((2, *training.image_shape))
  initial = functools.partial(jax.jit(method.init), jax.random.key(0), example)
  rows = next(iter(training.epoch(0)))
  lowered = _jitted(method, training).lower(
    jax.eval_shape(initial), method.constants, training.resident, rows
  )
  text = lowered.as_text()
  analysis = lowered.cost_analysis() or {}
  # The local steps of a client are a loop, and the analysis counts its body once.
  repeats = getattr(options, "local_steps", 1)
  cost = step_costs.StageCost(
    stage.name,
    stage.epochs,
    training.steps_per_epoch,
    float(analysis.get("flops", 0.0)) * repeats,
    text.count("stablehlo.convolution") * repeats,
    text.count("stablehlo.dot_general") * repeats,
    program=program_hash(text),
  )
  return Step(cost, lowered, initial, method.constants, training)


def _jitted(method: methods.Method, training: data.Batches) -> Any:
  """The step of the training loop."""

  def step(state, constants, resident, rows):
    prepared = lax.optimization_barrier(training.prepare(resident, rows))
    return method.update(state, prepared, constants)

  return jax.jit(step, donate_argnums=0)


def _is_float(array: jax.Array) -> bool:
  return jnp.issubdtype(array.dtype, jnp.floating)

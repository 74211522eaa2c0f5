"""Memory and time of a step that computes its features by micro-batches.

A student learns the similarities of all pairs of a batch (PKT) from a frozen teacher.
Three steps are compiled, and the compiler reports their memory besides the arguments: a
whole batch, a batch that is larger by the number of micro-batches, and the larger batch
with micro-batches. None of these is run.

    python -m experiments.benchmarks.micro_batches
    python -m experiments.benchmarks.micro_batches --device=gpu --timed_rows=8192

Then steps of `--timed_rows` rows are timed, as a whole and by micro-batches, in turns;
this and the difference of their parameters after one step are printed too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks import measurement
from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import networks

_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config(measurement.TurnsConfig):
  """Settings of the benchmark."""

  teacher_network: str = fields.setting("resnet32", "Teacher, untrained.")
  student_network: str = fields.setting("resnet20", "Student, untrained.")
  image_size: int = fields.setting(32, "Height and width of the images.", least=1)
  rows: int = fields.setting(1024, "Rows of the smaller batch.", least=2)
  micro_batches: int = fields.setting(
    8, "Number of micro-batches, and the factor by which the batch is larger.", least=2
  )
  timed_rows: int = fields.setting(
    256, "Rows of the steps that are timed; 0 to time none.", least=0
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a count is out of its range, or a network cannot be made.
  """
  config = fields.configured(Config, given)
  for name in ("teacher_network", "student_network"):
    networks.of_flag(name, getattr(config, name))
  return config


def run(config: Config) -> None:
  """Compiles, times and prints."""
  measurement.use_device(config.device)
  rows, number = config.rows, config.micro_batches
  sizes = {
    f"{rows:,} rows": (rows, 1),
    f"{rows * number:,} rows": (rows * number, 1),
    f"{rows * number:,} rows in {number} micro-batches": (rows * number, number),
  }
  needed = {name: needed_bytes(config, *size) for name, size in sizes.items()}
  environment = measurement.environment()
  print(measurement.heading(environment, config.student_network))
  first = next(iter(needed.values()))
  table = [[k, f"{v / 2**20:,.0f}", f"{v / first:.2f}"] for k, v in needed.items()]
  print(measurement.table(["step", "MiB", "ratio"], table))
  seconds, gap = timed(config) if config.timed_rows else ({}, None)
  if seconds:
    rows = [[k, measurement.spread(v, factor=1000)] for k, v in seconds.items()]
    print(measurement.table([f"{config.timed_rows:,} rows", "ms"], rows))
    print(f"largest difference of a parameter after one step: {gap:.1g}")
  results = {
    "needed_bytes": needed,
    "seconds": measurement.summary(seconds),
    "difference": gap,
  }
  measurement.write(config, environment, results)


def distilling(config: Config, number: int, *, norm: bool = True) -> methods.Method:
  """The method, by so many micro-batches.

  Args:
    config: Settings of the benchmark.
    number: Number of micro-batches.
    norm: False for a student in evaluation mode, whose BatchNorm reads no statistics
      of a batch: then micro-batches change rounding alone.
  """
  student, model = (
    models.by_name(name, num_classes=_CLASSES)
    for name in (config.student_network, config.teacher_network)
  )
  example = jnp.zeros((2, config.image_size, config.image_size, 3))
  variables = capture.init(model, jax.random.key(config.seed + 1), example)
  tap = student.taps[-1]
  taps = ((tap,), (model.taps[-1],))
  teacher = methods.Network(model, variables)

  def terms(student, teacher, batch, params):
    del params
    (ours,), (theirs,) = student.taps.values(), teacher.taps.values()
    return {"pkt": losses.pkt(ours, theirs, mask=batch["mask"])}

  return methods.distillation(
    student if norm else evaluated(student),
    teacher,
    optax.sgd(0.05, momentum=0.9),
    terms=terms,
    weights={"pkt": 1.0},
    taps=taps,
    label_weight=1.0,
    micro_batches=number,
    axis_name=None,
  )


def evaluated(model: Any) -> Any:
  """The network, in evaluation mode in training too."""
  adapted = capture.adapt(model)

  class Evaluated:
    """`capture.Model` that hands all on, but never trains its BatchNorm."""

    name, taps, pool, init = adapted.name, adapted.taps, adapted.pool, adapted.init

    def apply(self, *arguments: Any, train: bool, **options: Any) -> Any:
      """Applies the network in evaluation mode."""
      del train
      return adapted.apply(*arguments, train=False, **options)

  return Evaluated()


def needed_bytes(config: Config, rows: int, number: int) -> int:
  """Bytes that a compiled step needs besides its arguments.

  Raises:
    ValueError: If the device does not report memory.
  """
  method = distilling(config, number)
  batch = jax.eval_shape(lambda: images(config, rows))
  state = jax.eval_shape(method.init, jax.random.key(0), batch["image"])
  step = jax.jit(method.update, donate_argnums=0)
  analysis = step.lower(state, batch, method.constants).compile().memory_analysis()
  if analysis is None:
    raise ValueError("this device does not tell the memory of a program; use the CPU")
  return analysis.temp_size_in_bytes


def images(config: Config, rows: int) -> dict[str, jax.Array]:
  """A batch of random images."""
  size = config.image_size
  keys = jax.random.split(jax.random.key(config.seed))
  return {
    "image": jax.random.normal(keys[0], (rows, size, size, 3)),
    "label": jax.random.randint(keys[1], (rows,), 0, _CLASSES),
    "mask": jnp.ones(rows, bool),
  }


def timed(config: Config) -> tuple[dict[str, list[float]], float]:
  """Seconds of a step in each way, and the gap between their parameters."""
  batch = images(config, config.timed_rows)
  names = {1: "as a whole", config.micro_batches: "by micro-batches"}
  programs = {name: _step(config, number, batch) for number, name in names.items()}
  seconds = measurement.in_turns(programs, rounds=config.rounds, steps=config.steps)
  whole, parts = (_step(config, number, batch, norm=False)().params for number in names)
  gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole, parts)
  return seconds, max(jax.tree.leaves(gaps))


def _step(config, number, batch, **options) -> Callable[[], Any]:
  method = distilling(config, number, **options)
  state = method.init(jax.random.key(config.seed), batch["image"])
  update = jax.jit(method.update)
  return lambda: jax.block_until_ready(update(state, batch, method.constants)[0])


if __name__ == "__main__":
  launch.launch(Config, configure, run)

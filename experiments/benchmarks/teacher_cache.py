"""Time saved by a cache of teacher outputs, measured side by side in one process.

The student stage on CIFAR-10 (CNN1, batches of 128, flips and crops, the flow loss)
from a teacher, steps of one epoch with the teacher applied and with its outputs read
from a cache that is filled first. Both runs see the same batches and begin alike, so
that their parameters can be compared at the end.

    python -m experiments.benchmarks.teacher_cache --data_dir=DIR --cache=DIR \
        --auxiliary_checkpoint=FILE.npz
    python -m experiments.benchmarks.teacher_cache --data_dir=DIR --cache=DIR \
        --teacher_network=resnet18 --last_tap_only

The cache stays, and a second call reads it. Rounds take turns.
"""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import measurement
from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import teacher_cache
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import places

_KINDS = ("by the clock", "of processor time")


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the benchmark."""

  dataset: str = fields.setting(
    "cifar10", "Data set of tensorflow-datasets, or digits."
  )
  data_dir: str | None = fields.setting(
    None,
    "Folder in which tensorflow-datasets are prepared.",
    place=places.PERHAPS_FOLDER,
  )
  examples: int | None = fields.setting(
    None, "Number of training examples. Without the flag: all.", least=1
  )
  cache: str = fields.setting("", "Folder of the cache.", place=places.NEW_FOLDER)
  cache_dtype: str = fields.setting(
    "float32",
    "Data type in which the cache stores outputs.",
    choices=tuple(teacher_cache.CACHE_DTYPES),
  )
  teacher_network: str = fields.setting("cnn1:16", "Teacher, untrained: NAME:WIDTH.")
  auxiliary_checkpoint: str | None = fields.setting(
    None, "File of PyTorch weights (.npz) of the teacher.", place=places.FILE
  )
  student_network: str = fields.setting("cnn1:8", "Student: NAME:WIDTH.")
  last_tap_only: bool = fields.setting(False, "Distil the last tap alone.")
  batch_size: int = fields.setting(128, "Rows of a step.", least=1)
  rounds: int = fields.setting(5, "Turns that each run gets.", least=1)
  steps: int = fields.setting(40, "Steps of a turn.", least=1)


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a count is below 1, there is no folder for the cache, or a network
      or its weights cannot be made.
  """
  config = fields.configured(Config, given)
  if not config.cache:
    raise ValueError("--cache: expected a folder for the cache, got none")
  for name in ("teacher_network", "student_network"):
    networks.of_flag(name, getattr(config, name))
  if config.auxiliary_checkpoint is not None:
    imported_weights.check(
      "--auxiliary_checkpoint",
      config.auxiliary_checkpoint,
      "--teacher_network",
      config.teacher_network,
    )
  return config


def run(config: Config) -> None:
  """Fills, measures, compares and prints."""
  measurement.use_device(config.device)
  environment = measurement.environment()
  print(measurement.heading(environment, f"batch {config.batch_size}"))
  batches = training_batches(config)
  method = flow_method(config, batches)
  cached = teacher_cache.open_cache(
    Path(config.cache),
    batches,
    method.teacher,
    epochs=1,
    stored_as=config.cache_dtype,
    say=print,
  )
  total = config.rounds * config.steps
  if total > batches.steps_per_epoch:
    raise ValueError(
      f"--rounds, --steps: expected at most {batches.steps_per_epoch} steps (an epoch) "
      f"together, got {total}"
    )
  began = time.perf_counter()
  for _ in itertools.islice(cached.epoch(0), total):
    pass
  print(
    f"teacher applied or read for {total} steps: {time.perf_counter() - began:.1f} s"
  )
  runs = {"uncached": _Run(method, batches), "cached": _Run(method, cached)}
  seconds = {name: [] for name in runs}
  for _ in range(config.rounds):
    for name, each in runs.items():
      seconds[name].append(each.turn(config.steps))
  show(seconds, runs)
  found = {
    f"{name}, {what}": [each[kind] for each in turns]
    for name, turns in seconds.items()
    for kind, what in enumerate(_KINDS)
  }
  measurement.write(config, environment, {"seconds": measurement.summary(found)})


class _Run:
  """Training run that continues from turn to turn through one epoch."""

  def __init__(self, method, batches):
    self.step = train.DeviceStep(method, batches.prepare, batches.resident)
    self.first = method.init(jax.random.key(0), jnp.zeros((2, *batches.image_shape)))
    batch = next(batches.epoch(0))
    warm = train.replicate(jax.tree.map(jnp.array, self.first))
    jax.block_until_ready(self.step(warm, batch))  # compiles
    self.state = train.replicate(self.first)
    self.batches = batches.epoch(0)

  def turn(self, steps: int) -> tuple[float, float]:
    """Seconds of a step, reading included: by the clock, and of all cores together."""
    began = time.perf_counter(), time.process_time()
    for batch in itertools.islice(self.batches, steps):
      self.state, _ = self.step(self.state, batch)
    jax.block_until_ready(self.state)
    wall, cores = time.perf_counter() - began[0], time.process_time() - began[1]
    return wall / steps, cores / steps


def training_batches(config: Config) -> data.Batches:
  """The batches of the student stage."""
  split = data.load(
    config.dataset, "train", data_dir=config.data_dir, limit=config.examples
  )
  mean, std = data.normalization(config.dataset, split)
  return data.training_batches(
    split,
    batch_size=config.batch_size,
    seed=0,
    mean=mean,
    std=std,
    augmentation=data.Augmentation(flip=True, padding=4),
  )


def flow_method(config: Config, batches: data.Batches) -> methods.Method:
  """Information flow from the teacher, taps in order."""
  classes = batches.num_classes
  model = models.by_name(config.teacher_network, num_classes=classes)
  if config.auxiliary_checkpoint is not None:
    variables = imported_weights.variables(
      "--auxiliary_checkpoint", config.auxiliary_checkpoint, "--teacher_network", model
    )
  else:
    images = jnp.zeros((2, *batches.image_shape))
    variables = capture.init(model, jax.random.key(1), images)
  student = models.by_name(
    config.student_network, num_classes=classes, axis_name="batch"
  )
  taps = list(zip(reversed(student.taps), reversed(model.taps), strict=False))
  pairs = dict(taps[:1] if config.last_tap_only else reversed(taps))
  return methods.information_flow(
    student,
    methods.Network(model, variables),
    optax.adam(1e-3),
    pairs=pairs,
    weights=dict.fromkeys(pairs, 1.0),
  )


def show(seconds: dict[str, list[tuple[float, float]]], runs: dict[str, _Run]) -> None:
  """Prints times, their ratio, and how far the two students are apart."""
  for kind, what in enumerate(_KINDS):
    uncached, cached = (
      [each[kind] for each in seconds[name]] for name in ("uncached", "cached")
    )
    ratio = measurement.spread(measurement.ratios(uncached, cached))
    print(
      f"a step takes {measurement.spread(uncached, factor=1000)} ms {what}, with the "
      f"cache {measurement.spread(cached, factor=1000)}: {ratio} times as fast"
    )
  params = [jax.device_get(jax.tree.leaves(run.state.params)) for run in runs.values()]
  gaps = [np.abs(a - b).max() for a, b in zip(*params, strict=True)]
  size = max(np.abs(leaf).max() for leaf in params[0])
  equal = all(np.array_equal(a, b) for a, b in zip(*params, strict=True))
  print(
    "parameters of both students: "
    + ("equal to the bit" if equal else f"largest gap {max(gaps):.2g} of {size:.2g}")
  )


if __name__ == "__main__":
  launch.launch(Config, configure, run)

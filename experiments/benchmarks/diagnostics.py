"""Cost of diagnostics, compared with the training steps between them.

An epoch of the student stage is trained on images of CIFAR-10's size (CNN1 from CNN1-A,
batches of 128, four taps, the flow loss, a label term). Then the diagnostics that
follow every epoch of a run are computed once, with the dead units of the probe.

    python -m experiments.benchmarks.diagnostics
    python -m experiments.benchmarks.diagnostics --steps=40 --steps_per_epoch=391

Steps and diagnostics are timed in turns. The overhead is the time of the diagnostics
relative to an epoch of `--steps_per_epoch` steps.
"""

import dataclasses
import itertools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import measurement
from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import networks

_KINDS = ("by the clock", "of processor time")


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the benchmark."""

  teacher_network: str = fields.setting("cnn1:16", "Teacher, untrained: NAME:WIDTH.")
  student_network: str = fields.setting("cnn1:8", "Student: NAME:WIDTH.")
  image_size: int = fields.setting(32, "Height and width of the images.", least=1)
  batch_size: int = fields.setting(128, "Rows of a step.", least=1)
  steps: int = fields.setting(20, "Steps that are timed in a turn.", least=1)
  steps_per_epoch: int = fields.setting(391, "Steps of an epoch.", least=1)
  probe: int = fields.setting(2000, "Examples whose dead units are counted.", least=1)
  rounds: int = fields.setting(5, "Number of turns that each program gets.", least=1)


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a count is below 1, or a network cannot be made.
  """
  config = fields.configured(Config, given)
  for name in ("teacher_network", "student_network"):
    networks.of_flag(name, getattr(config, name))
  return config


def run(config: Config) -> None:
  """Measures and prints."""
  measurement.use_device(config.device)
  environment = measurement.environment()
  print(measurement.heading(environment, f"batch {config.batch_size}"))
  split = _images(max(config.batch_size * 4, config.probe), config.image_size)
  mean, std = data.normalization("cifar10", split)
  batches = data.training_batches(
    split, batch_size=config.batch_size, seed=0, mean=mean, std=std
  )
  method = flow_method(config, batches)
  step = train.DeviceStep(method, batches.prepare, batches.resident)
  diagnostics = train.Diagnostics(method, batches)
  first = method.init(jax.random.key(0), jnp.zeros((2, *batches.image_shape)))
  state = train.replicate(first)
  probe = _probe_taps(method, first, split, mean, std, config)
  rows = itertools.cycle([next(batches.epoch(0))])

  def steps(state, count):
    for batch in itertools.islice(rows, count):
      state, _ = step(state, batch)
    return jax.block_until_ready(state)

  state = steps(state, 3)
  jax.block_until_ready(diagnostics(state))
  training, looking = [], []
  for _ in range(config.rounds):
    began = _now()
    state = steps(state, config.steps)
    training.append(_since(began) / config.steps)
    began = _now()
    jax.block_until_ready(diagnostics(state))
    for activations in probe.values():
      evaluation.dead_share(activations)
    looking.append(_since(began))
  show(training, looking, config)
  seconds = {
    f"{name}, {what}": [float(each[kind]) for each in turns]
    for name, turns in (("step", training), ("look", looking))
    for kind, what in enumerate(_KINDS)
  }
  measurement.write(config, environment, {"seconds": measurement.summary(seconds)})


def show(training: list, looking: list, config: Config) -> None:
  """Print the times of a step and of diagnostics, and their ratio."""
  for kind, what in enumerate(_KINDS):
    steps, looks = ([each[kind] for each in turns] for turns in (training, looking))
    look = statistics.median(looks)
    share = look / (statistics.median(steps) * config.steps_per_epoch)
    print(
      f"{what}: a step {measurement.spread(steps, factor=1000)} ms, a look "
      f"{measurement.spread(looks, factor=1000)} ms; {share:.2%} of an epoch of "
      f"{config.steps_per_epoch} steps"
    )


def flow_method(config: Config, batches: data.Batches) -> methods.Method:
  """The paper's student stage, with a label term."""
  classes = batches.num_classes
  student = models.by_name(
    config.student_network, num_classes=classes, axis_name="batch"
  )
  model = models.by_name(config.teacher_network, num_classes=classes)
  images = jnp.zeros((2, *batches.image_shape))
  teacher = methods.Network(model, capture.init(model, jax.random.key(1), images))
  return methods.information_flow(
    student,
    teacher,
    optax.adam(1e-3),
    pairs={tap: tap for tap in student.taps},
    weights={tap: 1.0 if tap == student.taps[-1] else 100.0 for tap in student.taps},
    label_weight=1.0,
  )


def _images(count: int, size: int) -> data.Split:
  rng = np.random.default_rng(0)
  return data.Split(
    name="cifar10",
    split="train",
    images=rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
    labels=rng.integers(0, 10, count).astype(np.int32),
    class_names=tuple("0123456789"),
  )


def _probe_taps(method, state, split, mean, std, config) -> dict[str, np.ndarray]:
  """Taps on the probe, which a run also computes for information flow."""
  network = method.export(state)["network"]
  part = dataclasses.replace(
    split, images=split.images[: config.probe], labels=split.labels[: config.probe]
  )
  devices = jax.local_device_count()
  size = min(512, config.probe) // devices * devices
  batches = data.evaluation_batches(part, batch_size=size, mean=mean, std=std)
  model = network.model.clone(axis_name=None)
  return train.FeatureExtractor(model, batches)(network.variables).taps


def _now() -> np.ndarray:
  return np.array([time.perf_counter(), time.process_time()])


def _since(began: np.ndarray) -> np.ndarray:
  return _now() - began


if __name__ == "__main__":
  launch.launch(Config, configure, run)

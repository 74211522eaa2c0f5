"""Memory and time of a step whose teacher is sharded over the devices.

A small student learns from a teacher that is a whole on every device, by "pmap" and by
"jit", and from one of which every device holds a part, "jit_sharded".

    python -m experiments.benchmarks.sharded_teacher --devices=8
    python -m experiments.benchmarks.sharded_teacher --device=gpu --batch_size=256

Prints for each way what a device holds of the teacher, what a step needs on it, the
time of a step and the largest difference of a student's parameter from "pmap" after the
same steps. Plain gradient descent is used: Adam makes whole steps of rounding errors
where a gradient is zero.
"""

import dataclasses
from collections.abc import Mapping
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
from flowkd_jax import parallel
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import settings

WAYS = settings.PARALLELISMS
_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config(measurement.TurnsConfig):
  """Settings of the benchmark."""

  devices: int = fields.setting(
    0, "Number of virtual CPU devices; 0 for the devices that JAX finds.", least=0
  )
  teacher_network: str = fields.setting("resnet18", "Teacher, untrained.")
  student_network: str = fields.setting("cnn1:8", "Student: NAME:WIDTH.")
  image_size: int = fields.setting(32, "Height and width of the images.", least=1)
  batch_size: int = fields.setting(64, "Rows of a step, over all devices.", least=1)
  compared_steps: int = fields.setting(
    3, "Steps after which the students are compared.", least=1
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
  """Measures, compares and prints."""
  if config.devices:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", config.devices)
  measurement.use_device(config.device)
  batches, teacher = images(config), frozen_teacher(config)
  ways = {name: Way(name, config, batches, teacher) for name in WAYS}
  for _ in range(config.compared_steps):
    for way in ways.values():
      way()
  first, *_ = ways.values()
  records = {
    name: {
      "teacher_bytes": way.teacher_bytes(),
      "step_bytes": way.step.needed_bytes(way.state, way.batch),
      "difference": largest_gap(way.state.params, first.state.params),
    }
    for name, way in ways.items()
  }
  seconds = measurement.in_turns(ways, rounds=config.rounds, steps=config.steps)
  show(records, seconds, config)


def show(
  records: Mapping[str, Mapping[str, float]],
  seconds: Mapping[str, list[float]],
  config: Config,
) -> None:
  """Prints and writes bytes, times and differences."""
  environment = {**measurement.environment(), "devices": jax.local_device_count()}
  print(
    measurement.heading(
      environment, f"{environment['devices']} devices", f"batch {config.batch_size}"
    )
  )
  rows = [
    [
      name,
      f"{record['teacher_bytes'] / 2**20:.2f}",
      f"{record['step_bytes'] / 2**20:.1f}",
      measurement.spread(seconds[name], factor=1000),
      f"{record['difference']:.1g}",
    ]
    for name, record in records.items()
  ]
  headings = ["parallelism", "teacher, MiB each", "step, MiB each", "ms", "difference"]
  print(measurement.table(headings, rows))
  results = {"ways": records, "seconds": measurement.summary(seconds)}
  measurement.write(config, environment, results)


class Way:
  """A student and its teacher, mapped in one way; a call takes a step to its end."""

  def __init__(
    self,
    name: str,
    config: Config,
    batches: data.Batches,
    teacher: methods.Network,
  ):
    """Begins the run of a student by `name`, one of `WAYS`."""
    mode: parallel.Mode = "pmap" if name == "pmap" else "jit"
    axis_name = parallel.axis_of(mode)
    student = models.by_name(
      config.student_network, num_classes=_CLASSES, axis_name=axis_name
    )
    method = methods.information_flow(
      student,
      teacher,
      optax.sgd(0.1),
      pairs={student.taps[-1]: teacher.model.taps[-1]},
      weights={student.taps[-1]: 1.0},
      axis_name=axis_name,
    )
    self.batch = next(batches.epoch(0))
    self.step = train.DeviceStep(
      method,
      batches.prepare,
      batches.resident,
      parallelism=mode,
      shard=parallel.fully_sharded("constants") if name == WAYS[-1] else None,
    )
    key = jax.random.key(config.seed)
    start = method.init(key, jnp.zeros((2, *batches.image_shape)))
    self.state = self.step.place_state(start)

  def __call__(self) -> None:
    """Takes one step."""
    self.state, metrics = self.step(self.state, self.batch)
    jax.block_until_ready((self.state, metrics))

  def teacher_bytes(self) -> int:
    """Most bytes of the teacher that a device holds."""
    held = dict.fromkeys(self.step.devices, 0)
    for leaf in jax.tree.leaves(self.step.constants):
      for shard in leaf.addressable_shards:
        held[shard.device] += shard.data.nbytes
    return max(held.values())


def images(config: Config) -> data.Batches:
  """Random images, one batch an epoch."""
  rng = np.random.default_rng(config.seed)
  size, count = config.image_size, config.batch_size
  split = data.Split(
    name="random",
    split="train",
    images=rng.integers(0, 256, (count, size, size, 3), np.uint8),
    labels=rng.integers(0, _CLASSES, count).astype(np.int32),
    class_names=tuple("0123456789"),
  )
  return data.training_batches(
    split, batch_size=count, seed=0, mean=(127.5,) * 3, std=(74.0,) * 3
  )


def frozen_teacher(config: Config) -> methods.Network:
  """An untrained teacher whose variables are on the host."""
  model = models.by_name(config.teacher_network, num_classes=_CLASSES)
  example = jnp.zeros((2, config.image_size, config.image_size, 3))
  variables = capture.init(model, jax.random.key(config.seed + 1), example)
  return methods.Network(model, jax.device_get(variables))


def largest_gap(one: Any, other: Any) -> float:
  """Largest difference between the numbers of two trees."""
  gaps = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), jax.device_get(one), jax.device_get(other)
  )
  return max(jax.tree.leaves(gaps))


if __name__ == "__main__":
  launch.launch(Config, configure, run)

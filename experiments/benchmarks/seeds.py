"""All seeds of a run in one program, against one run after another.

Small networks leave an accelerator mostly idle. Here the training state of every seed
is stacked, and the step is mapped over the seeds by `jax.vmap`: each has its own start,
order of examples and augmentation, as its own run has.

    python -m experiments.benchmarks.seeds --seeds=8 --device=gpu --json=seeds.json
    python -m experiments.benchmarks.seeds --seeds=2 --rounds=3 --steps=2

The student stage of the paper (CNN1 from CNN1-A, four taps, Adam) on random images.
Prints the time of a step per seed for both ways, and the largest difference between the
parameters of a seed and those of its own run after the same steps.
"""

import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
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

PyTree = Any
CLASSES = 10
# The gradient of a bias before BatchNorm is zero up to rounding. With the usual epsilon
# of 1e-8, Adam turns this rounding noise into full steps, which differ between
# programs.
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Config(measurement.TurnsConfig):
  """Settings of the benchmark."""

  seeds: int = fields.setting(4, "Number of seeds.", least=1)
  teacher_network: str = fields.setting("cnn1:16", "Teacher, untrained: NAME:WIDTH.")
  student_network: str = fields.setting("cnn1:8", "Student: NAME:WIDTH.")
  image_size: int = fields.setting(32, "Height and width of the images.", least=1)
  batch_size: int = fields.setting(128, "Rows of a step of one seed.", least=1)
  compared_steps: int = fields.setting(
    3, "Steps after which the parameters of both ways are compared.", least=1
  )


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
  """Measures, compares and prints."""
  measurement.use_device(config.device)
  batches = batches_of_seeds(config)
  method = flow_method(config, batches[0])
  step = step_alone(method, batches[0])
  alone = [Alone(method, each, step) for each in batches]
  together = Together(method, batches)
  for _ in range(config.compared_steps):
    for each in (*alone, together):
      each()
  gap = largest_gap(together.states(), [each.states() for each in alone])

  def one_after_another():
    for each in alone:
      each()

  programs = {"one after another": one_after_another, "in one program": together}
  seconds = measurement.in_turns(programs, rounds=config.rounds, steps=config.steps)
  per_seed = {
    name: [value / config.seeds for value in values] for name, values in seconds.items()
  }
  show(per_seed, gap, config)


def show(seconds: Mapping[str, Sequence[float]], gap: float, config: Config) -> None:
  """Prints and writes the time of a step per seed, and the difference."""
  environment = measurement.environment()
  print(
    measurement.heading(
      environment, f"{config.seeds} seeds", f"batch {config.batch_size} each"
    )
  )
  first, *_ = seconds.values()
  rows = [
    [
      name,
      measurement.spread(values, factor=1000),
      measurement.spread(measurement.ratios(first, values)),
    ]
    for name, values in seconds.items()
  ]
  print(measurement.table(["seeds", "ms a step of a seed", "times as fast"], rows))
  print(
    f"Largest difference of a parameter after {config.compared_steps} steps: {gap:.2g}"
  )
  results = {"seconds": measurement.summary(seconds), "difference": gap}
  measurement.write(config, environment, results)


def batches_of_seeds(config: Config) -> list[data.Batches]:
  """The same images in the order and with the augmentation of each seed."""
  rng = np.random.default_rng(config.seed)
  size, count = config.image_size, 4 * config.batch_size
  split = data.Split(
    name="random",
    split="train",
    images=rng.integers(0, 256, (count, size, size, 3), np.uint8),
    labels=rng.integers(0, CLASSES, count).astype(np.int32),
    class_names=tuple("0123456789"),
  )
  return [
    data.training_batches(
      split,
      batch_size=config.batch_size,
      seed=seed,
      mean=(127.5,) * 3,
      std=(74.0,) * 3,
      augmentation=data.Augmentation(flip=True, padding=2),
    )
    for seed in range(config.seeds)
  ]


def flow_method(config: Config, batches: data.Batches) -> methods.Method:
  """Information flow between all taps."""
  model = models.by_name(config.teacher_network, num_classes=CLASSES)
  images = jnp.zeros((2, *batches.image_shape))
  teacher = methods.Network(model, capture.init(model, jax.random.key(1), images))
  student = models.by_name(
    config.student_network, num_classes=CLASSES, axis_name="batch"
  )
  return methods.information_flow(
    student,
    teacher,
    optax.adam(1e-3, eps=EPSILON),
    pairs={tap: tap for tap in student.taps},
    weights=dict.fromkeys(student.taps, 1.0),
  )


class Alone:
  """The run of one seed; a call takes a step of it to its end."""

  def __init__(
    self, method: methods.Method, batches: data.Batches, step: Callable[..., Any]
  ):
    """Begins the run of the seed that `batches` has, with a step of `step_alone`."""
    device = jax.local_devices()[:1]
    self._step = step
    self._resident = parallel.place(batches.resident, device)
    self._constants = parallel.place(method.constants, device)
    self.state = train.replicate(_start(method, batches), device)
    self._rows = _endless(batches)

  def __call__(self) -> None:
    """Takes one step."""
    rows = parallel.split_rows(next(self._rows), 1)
    self.state, metrics = self._step(self.state, self._constants, self._resident, rows)
    jax.block_until_ready((self.state, metrics))

  def states(self) -> list[PyTree]:
    """The state of the seed."""
    return [jax.device_get(self.state)]


def step_alone(method: methods.Method, batches: data.Batches) -> Callable[..., Any]:
  """The step of one seed: one program for all, which gets the seed as an array."""
  return _mapped(
    lambda state, constants, resident, rows: method.update(
      state, batches.prepare(resident, rows), constants
    )
  )


class Together:
  """The runs of all seeds as one program; a call takes a step of each to its end."""

  def __init__(self, method: methods.Method, batches: Sequence[data.Batches]):
    """Begins the runs of the seeds that `batches` have; their images are the same."""
    device, first = jax.local_devices()[:1], batches[0]

    def step(states, constants, resident, rows):
      images, seeds = resident

      def one(state, seed, rows):
        prepared = first.prepare({**images, "seed": seed}, rows)
        return method.update(state, prepared, constants)

      return jax.vmap(one)(states, seeds, rows)

    self._step = _mapped(step)
    images = {name: each for name, each in first.resident.items() if name != "seed"}
    seeds = np.stack([each.resident["seed"] for each in batches])
    self._resident = parallel.place((images, seeds), device)
    self._constants = parallel.place(method.constants, device)
    states = [_start(method, each) for each in batches]
    self.state = train.replicate(jax.tree.map(lambda *x: jnp.stack(x), *states), device)
    self._rows = [_endless(each) for each in batches]

  def __call__(self) -> None:
    """Takes one step of every seed."""
    each = [next(rows) for rows in self._rows]
    # The first axis is that of the one device.
    rows = jax.tree.map(lambda *arrays: np.stack(arrays)[None], *each)
    self.state, metrics = self._step(self.state, self._constants, self._resident, rows)
    jax.block_until_ready((self.state, metrics))

  def states(self) -> list[PyTree]:
    """The state of every seed."""
    states = jax.device_get(self.state)
    seeds = range(len(self._rows))
    return [jax.tree.map(lambda leaf, s=seed: leaf[s], states) for seed in seeds]


def largest_gap(together: Sequence[PyTree], alone: Sequence[Sequence[PyTree]]) -> float:
  """Largest difference of a parameter between both ways, over all seeds."""
  gaps = [
    np.abs(np.asarray(one) - np.asarray(other)).max()
    for state, (own,) in zip(together, alone, strict=True)
    for one, other in zip(
      jax.tree.leaves(state.params), jax.tree.leaves(own.params), strict=True
    )
  ]
  return float(max(gaps))


def _mapped(step: Callable[..., Any]) -> Callable[..., Any]:
  """The step on one device, with the axis that methods expect."""
  return parallel.map_step(
    step,
    in_axes=(None, None, None, 0),
    out_axes=None,
    donate=(0,),
    devices=jax.local_devices()[:1],
  )


def _start(method: methods.Method, batches: data.Batches) -> PyTree:
  key = jax.random.key(int(batches.resident["seed"]))
  return method.init(key, jnp.zeros((2, *batches.image_shape)))


def _endless(batches: data.Batches):
  return itertools.chain.from_iterable(
    batches.epoch(number) for number in itertools.count()
  )


if __name__ == "__main__":
  launch.launch(Config, configure, run)

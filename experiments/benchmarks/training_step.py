"""One distillation step against PyTorch, measured side by side in one process.

The step of the paper's student stage: CNN1 from CNN1-A, 32x32 images, all four taps,
cosine and Student-t kernels, Jeffreys divergence, Adam. PyTorch runs the equations of
the published code at its best: the teacher in `no_grad` and evaluation mode.

    make bench
    python -m experiments.benchmarks.training_step --batch_size=128 --rounds=5

Prints a table with the ratios. What is compared takes turns, round by round, so that
a change in the machine's speed meets both.
"""

import dataclasses
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import console as rich_console
from rich import table as rich_table

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields

WEIGHTS = (100.0, 100.0, 100.0, 1.0)
TAP_WIDTHS = {"student": (1800, 576, 128, 64), "teacher": (3600, 1152, 256, 128)}


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the benchmark."""

  batch_size: int = fields.setting(128, "Rows of a step.", least=1)
  rounds: int = fields.setting(7, "Turns that each program gets.", least=1)
  steps: int = fields.setting(20, "Timed steps in a turn.", least=1)
  seed: int = fields.setting(0, "Seed of images and weights.", least=0)


def configure(**given: Any) -> Config:
  """Settings, with those that are given.

  Raises:
    ValueError: If a count is below 1.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Measures and prints."""
  rng = np.random.default_rng(config.seed)
  images = rng.standard_normal((config.batch_size, 32, 32, 3)).astype(np.float32)
  labels = rng.integers(0, 10, config.batch_size).astype(np.int32)
  taps = {
    role: [
      np.maximum(rng.standard_normal((config.batch_size, width)), 0).astype(np.float32)
      for width in widths
    ]
    for role, widths in TAP_WIDTHS.items()
  }
  programs = {**jax_programs(images, labels, taps), **torch_programs(images, taps)}
  seconds = measure(programs, config)
  show(seconds, config)


def jax_programs(images, labels, taps) -> dict[str, Callable[[], None]]:
  """Our programs; each call runs one step to its end."""
  device = jax.local_devices()[:1]
  student = models.CNN(axis_name="batch")
  key = jax.random.key(0)
  teacher_model = models.CNN(width=16)
  teacher = methods.Network(
    teacher_model, capture.init(teacher_model, key, jnp.asarray(images[:2]))
  )
  batch = {"image": images, "label": labels, "mask": np.ones(len(images), bool)}
  flow = methods.information_flow(
    student,
    teacher,
    optax.adam(1e-3),
    pairs={tap: tap for tap in student.taps},
    weights=dict(zip(student.taps, WEIGHTS, strict=True)),
  )
  labelled = methods.supervised(student, optax.adam(1e-3))

  def stepper(method):
    step = train.DeviceStep(method, lambda resident, batch: batch, {}, devices=device)
    state = [train.replicate(method.init(key, jnp.asarray(images[:2])), device)]

    def run_step():
      state[0], metrics = step(state[0], batch)
      jax.block_until_ready((state[0], metrics))

    return run_step

  on_device = jax.device_put(images, device[0])
  forward = jax.jit(lambda v, x: capture.apply_with_taps(teacher_model, v, x))
  variables = jax.device_put(teacher.variables, device[0])
  gradient = jax.jit(
    jax.value_and_grad(lambda s, t: losses.information_flow(s, t, weights=WEIGHTS))
  )
  student_taps, teacher_taps = jax.device_put((taps["student"], taps["teacher"]))
  return {
    "step": stepper(flow),
    "labels step": stepper(labelled),
    "teacher forward": lambda: jax.block_until_ready(forward(variables, on_device)),
    "loss": lambda: jax.block_until_ready(gradient(student_taps, teacher_taps)),
  }


def torch_programs(images, taps) -> dict[str, Callable[[], None]]:
  """The same in PyTorch.

  Raises:
    ValueError: If PyTorch is not installed.
  """
  try:
    from experiments.benchmarks import torch_step
  except ImportError:
    raise ValueError(
      "PyTorch is not installed, and this benchmark compares with it: run "
      '`make bench`, or pip install "flowkd_jax[benchmark]"'
    ) from None
  return {
    "step, PyTorch": torch_step.distillation_step(images, WEIGHTS),
    "loss, PyTorch": torch_step.loss_alone(taps["student"], taps["teacher"], WEIGHTS),
  }


def measure(programs, config: Config) -> dict[str, list[float]]:
  """Median seconds of a step in each round, programs taking turns."""
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for program in programs.values():
    for _ in range(3):
      program()
  for _ in range(config.rounds):
    for name, program in programs.items():
      program()
      times = []
      for _ in range(config.steps):
        began = time.perf_counter()
        program()
        times.append(time.perf_counter() - began)
      seconds[name].append(statistics.median(times))
  return seconds


def show(seconds: dict[str, list[float]], config: Config) -> None:
  """Prints times and ratios: median over the rounds, and their range."""
  console = rich_console.Console(highlight=False)
  versions = {name: importlib.metadata.version(name) for name in ("jax", "torch")}
  device = jax.local_devices()[0]
  console.print(
    f"Batch {config.batch_size}; {config.rounds} rounds of {config.steps} steps; "
    f"{device.device_kind}, {os.cpu_count()} cores, Python "
    f"{platform.python_version()}, JAX {versions['jax']}, PyTorch "
    f"{versions['torch']}; seed {config.seed}"
  )
  table = rich_table.Table("", "flowkd_jax ms", "PyTorch ms", "PyTorch / flowkd_jax")
  for name, title in (
    ("step", "distillation step, four taps"),
    ("loss", "loss alone, forward and backward"),
  ):
    ours, theirs = seconds[name], seconds[f"{name}, PyTorch"]
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    table.add_row(title, _milliseconds(ours), _milliseconds(theirs), _range(ratios))
  for name in ("labels step", "teacher forward"):
    table.add_row(name, _milliseconds(seconds[name]), "", "")
  console.print(table)
  parts = zip(seconds["labels step"], seconds["teacher forward"], strict=True)
  plain = [labels + teacher for labels, teacher in parts]
  overhead = [a / b - 1 for a, b in zip(seconds["step"], plain, strict=True)]
  console.print(
    "Overhead of the flow loss over a supervised step and the teacher's forward pass: "
    f"{_range([100 * part for part in overhead])} %"
  )


def _milliseconds(values: list[float]) -> str:
  return _range([1000 * value for value in values])


def _range(values: list[float]) -> str:
  return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
  launch.launch(Config, configure, run)

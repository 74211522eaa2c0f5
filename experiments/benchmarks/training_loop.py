"""Host time of a training step, measured with updates that cost nothing.

`train.fit` runs a method that only counts, so what is measured is Python, dispatch and
the transfer of batches. An accelerator waits for this time if a step of it is shorter.
The state is one number, or it has the arrays of a ResNet-18 and its optimizer, as
dispatching costs more with more arrays.

    python -m experiments.benchmarks.training_loop --steps=20000

Prints a table: microseconds of a step over all epochs, compilation included, and in the
median epoch, and there the processor time of the loop's own thread, which other
work on the machine hardly changes.
"""

import dataclasses
import functools
import json
import time
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
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields

STATES = ("number", "resnet18")
_STEPS_PER_EPOCH = 391  # CIFAR-10 in batches of 128


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the benchmark."""

  steps: int = fields.setting(20_000, "Training steps of each run.", least=1)
  steps_per_call: tuple[int, ...] = fields.setting(
    (1, 50), "Maximum numbers of steps in one call, a run each.", least=1
  )
  states: tuple[str, ...] = fields.setting(
    STATES, "Sizes of the training state.", choices=STATES
  )
  batch_size: int = fields.setting(128, "Rows of a step.", least=1)


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a count is below 1.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Measures and prints."""
  measurement.use_device(config.device)
  records = []
  for name in config.states:
    for steps_per_call in config.steps_per_call:
      records.append(measure(name, steps_per_call, config))
      print(json.dumps(records[-1]), flush=True)
  environment = measurement.environment()
  show(records, environment, config)
  measurement.write(config, environment, {"records": records})


def measure(name: str, steps_per_call: int, config: Config) -> dict[str, Any]:
  """Trains once; returns microseconds of a step."""
  per_epoch = min(config.steps, _STEPS_PER_EPOCH)
  epochs = -(-config.steps // per_epoch)
  times, own = [], []

  def on_epoch(*_):
    times.append(time.perf_counter())
    own.append(time.thread_time())
    return {}

  options = train.FitOptions(
    devices=jax.local_devices()[:1],
    on_epoch=on_epoch,
    steps_per_call=steps_per_call,
  )
  method = counting(name)
  began = time.perf_counter()
  train.fit(
    method,
    examples(per_epoch, config.batch_size),
    epochs=epochs,
    key=jax.random.key(0),
    options=options,
  )
  total = time.perf_counter() - began
  # The first time is that before the first epoch, the second includes compilation.
  later, own_later = np.diff(times[1:]) / per_epoch, np.diff(own[1:]) / per_epoch
  return {
    "state": name,
    "arrays": len(
      jax.tree.leaves(jax.eval_shape(method.init, jax.random.key(0), _ROW))
    ),
    "steps_per_call": steps_per_call,
    "steps": per_epoch * epochs,
    "microseconds": 1e6 * total / (per_epoch * epochs),
    "microseconds_median_epoch": _median(later),
    "thread_microseconds_median_epoch": _median(own_later),
  }


def _median(seconds: np.ndarray) -> float | None:
  return 1e6 * float(np.median(seconds)) if seconds.size else None


_ROW = np.zeros((2, 32, 32, 3), np.float32)


def counting(name: str) -> methods.Method:
  """A method that counts steps and carries a state along."""

  def init(key, images):
    del images
    carried: Any = jnp.zeros(())
    if name == "resnet18":
      model = models.by_name("resnet18", num_classes=10, axis_name=None)
      variables = jax.jit(functools.partial(capture.init, model))(key, _ROW)
      carried = variables, optax.adam(1e-3).init(variables["params"])
    return {"step": jnp.zeros((), jnp.int32), "carried": carried}

  def update(state, batch, constants):
    del constants
    loss = batch["mask"].sum(dtype=jnp.float32)
    metrics = {"loss": loss, "accuracy": loss, "gradient_norm": loss}
    return {**state, "step": state["step"] + 1}, metrics

  return methods.Method(init, update, lambda state: {})


def examples(per_epoch: int, batch_size: int) -> data.Batches:
  """Batches of images of one pixel."""
  count = per_epoch * batch_size
  split = data.Split(
    name="pixels",
    split="train",
    images=np.zeros((count, 1, 1, 1), np.uint8),
    labels=np.zeros(count, np.int32),
    class_names=("a", "b"),
  )
  return data.training_batches(
    split, batch_size=batch_size, seed=0, mean=(0.0,), std=(1.0,)
  )


def show(
  records: list[dict[str, Any]], environment: dict[str, Any], config: Config
) -> None:
  """Prints a table."""
  print(measurement.heading(environment))
  print(f"Batches of {config.batch_size}; microseconds of a step of `fit`")
  columns = "state", "arrays", "steps a call", "all", "median epoch", "its thread"
  rows = []
  for record in records:
    shown = (
      record[name] or float("nan")
      for name in (
        "microseconds",
        "microseconds_median_epoch",
        "thread_microseconds_median_epoch",
      )
    )
    size = record["state"], str(record["arrays"]), str(record["steps_per_call"])
    rows.append([*size, *(f"{value:.1f}" for value in shown)])
  print(measurement.table(columns, rows))


if __name__ == "__main__":
  launch.launch(Config, configure, run)

"""One distillation step against PyTorch, measured side by side in one process.

The step of the paper's student stage: CNN1 from CNN1-A, 32x32 images, all four taps,
cosine and Student-t kernels, Jeffreys divergence, Adam. Data lie on the device.
PyTorch runs the equations of the published code: the teacher in `no_grad` and
evaluation mode, channels last, fused Adam; eager, compiled, compiled with
`reduce-overhead` and, on a GPU, compiled with the whole step in one CUDA graph.

    make bench
    make bench DEVICE=gpu
    python -m experiments.benchmarks.training_step --batch_size=128 --json=step.json

Prints times and ratios. Compared programs take turns, round by round. On an accelerator
our step is also measured as `train.fit` runs it, many steps in one call.
"""

import dataclasses
import statistics
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
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields

WEIGHTS = (100.0, 100.0, 100.0, 1.0)
TAP_WIDTHS = {"student": (1800, 576, 128, 64), "teacher": (3600, 1152, 256, 128)}
# What is compared with PyTorch, and its name in the tables.
COMPARED = {
  "step": "distillation step, four taps",
  "loss": "loss alone, forward and backward",
}
MANY = "step, many a call"


@dataclasses.dataclass(frozen=True)
class Config(measurement.TurnsConfig, measurement.TorchConfig):
  """Settings of the benchmark."""

  batch_size: int = fields.setting(128, "Rows of a step.", least=1)
  steps_per_call: int = fields.setting(
    0,
    "Steps of our program that takes many in one call; 0 for 100 on accelerators and no"
    " such program on a CPU.",
    least=0,
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a count is below 1.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Measures and prints."""
  device = measurement.use_device(config.device)
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
  theirs = torch_programs(images, taps, device.platform, config.torch_modes)
  many = config.steps_per_call or (1 if device.platform == "cpu" else 100)
  programs = {**jax_programs(images, labels, taps, steps_per_call=many), **theirs}
  seconds = measurement.in_turns(programs, rounds=config.rounds, steps=config.steps)
  if MANY in seconds:
    seconds[MANY] = [value / many for value in seconds[MANY]]
  environment = measurement.environment(torch=True)
  show(seconds, environment, config)
  results = {"seconds": measurement.summary(seconds)}
  measurement.write(config, environment, results)


def jax_programs(
  images: np.ndarray,
  labels: np.ndarray,
  taps: Mapping[str, Sequence[np.ndarray]],
  *,
  steps_per_call: int = 1,
) -> dict[str, Callable[[], Any]]:
  """Our programs; each call runs one step to its end, or `steps_per_call` steps."""
  device = jax.local_devices()[:1]
  student = models.CNN(axis_name="batch")
  key = jax.random.key(0)
  teacher_model = models.CNN(width=16)
  teacher = methods.Network(
    teacher_model, capture.init(teacher_model, key, jnp.asarray(images[:2]))
  )
  flow = methods.information_flow(
    student,
    teacher,
    optax.adam(1e-3),
    pairs={tap: tap for tap in student.taps},
    weights=dict(zip(student.taps, WEIGHTS, strict=True)),
  )
  labelled = methods.supervised(student, optax.adam(1e-3))
  examples = {"image": images, "label": labels}
  on_device = jax.device_put(images, device[0])
  forward = jax.jit(lambda v, x: capture.apply_with_taps(teacher_model, v, x))
  variables = jax.device_put(teacher.variables, device[0])
  gradient = jax.jit(
    jax.value_and_grad(lambda s, t: losses.information_flow(s, t, weights=WEIGHTS))
  )
  student_taps, teacher_taps = jax.device_put((taps["student"], taps["teacher"]))
  many = {MANY: _stepper(flow, examples, steps_per_call)} if steps_per_call > 1 else {}
  return {
    "step": _stepper(flow, examples),
    **many,
    "labels step": _stepper(labelled, examples),
    "teacher forward": lambda: jax.block_until_ready(forward(variables, on_device)),
    "loss": lambda: jax.block_until_ready(gradient(student_taps, teacher_taps)),
  }


def _stepper(
  method: methods.Method, examples: Mapping[str, np.ndarray], steps: int = 1
) -> Callable[[], Any]:
  """A function that takes steps on examples that lie on the device."""
  rows = len(examples["label"])
  batch = {"index": np.arange(rows, dtype=np.int32), "mask": np.ones(rows, bool)}

  def prepare(resident, batch):
    taken = {name: values[batch["index"]] for name, values in resident.items()}
    return {**taken, "mask": batch["mask"]}

  device = jax.local_devices()[:1]
  step = train.DeviceStep(
    method,
    prepare,
    dict(examples),
    devices=device,
    steps_per_call=steps,
    steps_per_epoch=steps,
  )
  first = method.init(jax.random.key(0), jnp.asarray(examples["image"][:2]))
  state = [train.replicate(first, device)]
  batches = [batch] * steps if steps > 1 else []

  def run_step():
    state[0], metrics = (
      step.run(state[0], batches) if batches else step(state[0], batch)
    )
    return jax.block_until_ready((state[0], metrics))

  return run_step


def torch_programs(
  images: np.ndarray,
  taps: Mapping[str, Sequence[np.ndarray]],
  platform: str,
  modes: Sequence[str] = measurement.MODES,
) -> dict[str, Callable[[], None]]:
  """The same in PyTorch, by "step, MODE" and "loss, MODE".

  Raises:
    ValueError: If PyTorch is not installed, or cannot use the device.
  """
  measurement.check_torch()
  from experiments.benchmarks import torch_modes
  from experiments.benchmarks import torch_step

  device = torch_modes.device_for(platform)
  programs = {}
  for mode in torch_modes.modes(device, modes):
    way = {"mode": mode, "device": device}
    programs[f"step, {mode}"] = torch_step.distillation_step(images, WEIGHTS, **way)
    programs[f"loss, {mode}"] = torch_step.loss_alone(
      taps["student"], taps["teacher"], WEIGHTS, **way
    )
  return programs


def show(
  seconds: Mapping[str, Sequence[float]],
  environment: Mapping[str, Any],
  config: Config,
) -> None:
  """Prints times and ratios: median over the rounds, and their range."""
  print(
    measurement.heading(
      environment,
      f"batch {config.batch_size}",
      f"{config.rounds} rounds of {config.steps} steps",
      f"seed {config.seed}",
    )
  )
  rows = []
  for name, title in COMPARED.items():
    ours = seconds[MANY] if name == "step" and MANY in seconds else seconds[name]
    for other in (each for each in seconds if each.startswith(name)):
      shown = f"{title}: {other.removeprefix(name).removeprefix(', ') or 'flowkd_jax'}"
      ratio = measurement.ratios(seconds[other], ours)
      milliseconds = measurement.spread(seconds[other], factor=1000)
      rows.append([shown, milliseconds, measurement.spread(ratio)])
  for name in ("labels step", "teacher forward"):
    rows.append([name, measurement.spread(seconds[name], factor=1000), ""])
  print(measurement.table(["program", "ms", "times ours"], rows))
  parts = zip(seconds["labels step"], seconds["teacher forward"], strict=True)
  plain = [labels + teacher for labels, teacher in parts]
  overhead = [a / b - 1 for a, b in zip(seconds["step"], plain, strict=True)]
  print(
    "Overhead of the flow loss over a supervised step and the teacher's forward pass: "
    f"{statistics.median(overhead):.0%}"
  )


if __name__ == "__main__":
  launch.launch(Config, configure, run)

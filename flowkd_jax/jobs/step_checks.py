"""Checks of a student's training step: memory, time, losses and gradients."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.jobs.finding import Finding
from flowkd_jax.jobs.finding import Level

__all__ = [
  "Rehearsal",
  "gradients",
  "magnitudes",
  "measuring",
  "memory",
  "step_time",
]

_RATIO = 1e4  # ratio of weighted losses beyond which the smaller has no effect
_GRADIENT_RATIO = 100  # the same limit for the gradients of labels and teacher
_TIMED_STEPS, _TIMED_SECONDS = 20, 2.0


class Rehearsal:
  """First steps of a method on the devices, whose results are discarded."""

  def __init__(
    self,
    method: methods.Method,
    training: data.Batches,
    options: train.FitOptions | None = None,
  ):
    """Prepare the step and take one batch; nothing is compiled.

    Args:
      method: The method.
      training: Training batches of the method.
      options: Options that map steps over devices.
    """
    options = options or train.FitOptions()
    self._method, self._training = method, training
    self._mapped: dict[str, Any] = {
      "parallelism": options.parallelism,
      "shard": options.shard,
    }
    self._step = train.DeviceStep(
      method,
      training.prepare,
      training.resident,
      steps_per_call=options.most_steps_per_call,
      steps_per_epoch=training.steps_per_epoch,
      row_arrays=getattr(training, "row_arrays", ()),
      **self._mapped,
    )
    self._batch = next(training.epoch(0))

  @functools.cached_property
  def _initial(self):
    """Initial state, cached because its compilation takes longer than the checks."""
    images = jnp.zeros((2, *self._training.image_shape))
    return self._method.init(jax.random.key(0), images)

  def _state(self):
    """Copy of the initial state, because a step donates its argument."""
    return self._step.place_state(self._initial)

  def needed_bytes(self) -> int:
    """Memory of a step on each device, in bytes."""
    return self._step.needed_bytes(self._state(), self._batch)

  def networks(self) -> Mapping[str, methods.Network]:
    """Networks that the method exports before training, by name."""
    return self._method.export(self._initial)

  def first_metrics(self) -> dict[str, float]:
    """Metrics of the first step."""
    _, metrics = self._step(self._state(), self._batch)
    return {name: float(value) for name, value in metrics.items()}

  def step_seconds(self) -> float:
    """Mean time of a step in seconds, without compilation."""
    state, metrics = self._step(self._state(), self._batch)
    jax.block_until_ready(metrics)
    began, taken = time.monotonic(), 0
    while taken < _TIMED_STEPS and time.monotonic() - began < _TIMED_SECONDS:
      state, metrics = self._step(state, self._batch)
      jax.block_until_ready(metrics)
      taken += 1
    return (time.monotonic() - began) / taken

  def gradient_norms(self) -> dict[str, float]:
    """Gradient norms of each loss term, from the method's diagnostics."""
    observe = train.Diagnostics(self._method, self._training, **self._mapped)
    return {name: float(norm) for name, norm in observe(self._state()).items()}


def memory(needed_bytes: int, limit_bytes: int | None) -> Finding:
  """Comparison of the memory of a step with the memory of the device."""
  text = (
    f"A step needs {_size(needed_bytes)} on each device, parameters and data included"
  )
  if limit_bytes is None:
    return Finding(Level.FINE, f"{text}; this device does not report its memory.")
  text = f"{text}; there are {_size(limit_bytes)}."
  if needed_bytes > limit_bytes:
    hint = "Lower --batch_size, raise --micro_batches, or stream data: --memory_gib=0."
    return Finding(Level.WRONG, f"{text} {hint}")
  return Finding(Level.FINE, text)


def measuring(rows: int, needed_bytes: int, limit_bytes: int | None) -> Finding:
  """Memory of measuring a network, on a batch sized for the network."""
  text = (
    f"Measuring takes {rows} images at a time and needs about {_size(needed_bytes)} on "
    "each device"
  )
  if limit_bytes is not None and needed_bytes > limit_bytes:
    hint = "Use smaller images: --image_size."
    return Finding(Level.WRONG, f"{text}; there are {_size(limit_bytes)}. {hint}")
  return Finding(Level.FINE, f"{text}, without the data.")


def _size(num_bytes: int) -> str:
  """Format a size in GiB, or in MiB if it is below 0.1 GiB."""
  if num_bytes < 2**30 / 10:
    return f"{num_bytes / 2**20:.1f} MiB"
  return f"{num_bytes / 2**30:.2f} GiB"


def step_time(seconds: float, steps_per_epoch: int, epochs: int) -> Finding:
  """Time of a step, an epoch and the student's stage, without measurements."""
  return Finding(
    Level.FINE,
    f"A step of the student takes {_duration(seconds)}, an epoch of {steps_per_epoch} "
    f"steps {_duration(seconds * steps_per_epoch)}, all {epochs} epochs "
    f"{_duration(seconds * steps_per_epoch * epochs)}, without compilation and "
    "measurements.",
  )


def _duration(seconds: float) -> str:
  """Format a time in a suitable unit."""
  for limit, unit, name in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "minutes")):
    if seconds < limit:
      return f"{seconds / unit:.3g} {name}"
  return f"{seconds / 3600:.3g} hours"


def magnitudes(metrics: Mapping[str, float]) -> Finding:
  """Check that the weighted losses of the first step are finite and comparable."""
  names = [name[5:] for name in metrics if name.startswith("loss/")]
  shares = {name: metrics[f"loss/{name}"] * metrics[f"weight/{name}"] for name in names}
  shown = ", ".join(f"{name} {share:.3g}" for name, share in shares.items())
  norm = metrics["gradient_norm"]
  text = f"First step: weighted losses {shown}; norm of the gradient {norm:.3g}."
  if not np.isfinite([norm, *shares.values()]).all():
    return Finding(Level.WRONG, f"{text} Not all values are finite.")
  if max(shares.values()) > _RATIO * max(min(shares.values()), 1e-30):
    hint = f"The smallest is below 1 / {_RATIO:.0f} of the largest: change weights."
    return Finding(Level.WARNING, f"{text} {hint}")
  return Finding(Level.FINE, text)


def gradients(observed: Mapping[str, float]) -> Finding:
  """Check that the gradient norms of the loss terms are finite and comparable."""
  norms = {
    name.removeprefix("gradient/"): value
    for name, value in observed.items()
    if name.startswith("gradient/")
  }
  shown = ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items())
  text = f"First step: norms of the gradients of the weighted losses {shown}."
  ratio = observed.get("gradient_ratio")
  if ratio is not None:
    text = f"{text} The teacher's gradient is {ratio:.3g} times that of the labels."
  if not np.isfinite([*norms.values()]).all():
    return Finding(Level.WRONG, f"{text} Not all values are finite.")
  if not any(norms.values()):
    return Finding(Level.WRONG, f"{text} All are zero: nothing would be learnt.")
  if ratio is not None and not 1 / _GRADIENT_RATIO <= ratio <= _GRADIENT_RATIO:
    weak = "labels" if ratio > 1 else "teacher"
    hint = f"The {weak} would have almost no effect: change the weight of the labels."
    return Finding(Level.WARNING, f"{text} {hint}")
  weakest = [
    name for name, norm in norms.items() if norm * _RATIO < max(norms.values())
  ]
  if weakest:
    hint = f"{', '.join(weakest)} would have almost no effect: change weights."
    return Finding(Level.WARNING, f"{text} {hint}")
  return Finding(Level.FINE, text)

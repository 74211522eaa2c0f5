"""Schedules of loss weights over training, as optax schedules of the step."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from flowkd_jax._numerics import checks

__all__ = [
  "ResetState",
  "cosine",
  "critical_period",
  "normalized",
  "reset_every",
  "warmup",
]


def critical_period(
  initial_weight: float | jax.Array = 100.0,
  decay: float | jax.Array = 0.7,
  *,
  steps_per_epoch: int = 1,
  by_step: bool = False,
) -> optax.Schedule:
  """Weight of the intermediate layers: strong at first, then let go.

  `initial_weight * decay^k` at epoch k (Passalis et al. 2020, Eq. 10): with the
  defaults above 2 while connections form (k <= 10), below 0.01 from k = 26. By
  epoch as in the paper, or decaying smoothly with every step.

  Args:
    initial_weight: Weight in the first epoch; may be traced, and then is not checked.
    decay: Factor per epoch, the paper's gamma; likewise.
    steps_per_epoch: Steps in an epoch; with 1 the argument counts epochs.
    by_step: Decay within epochs too.

  Returns:
    A function from the step (0, 1, ...) to the weight.

  Raises:
    ValueError: If `initial_weight` is negative, `decay` outside (0, 1], or
      `steps_per_epoch` below 1.

  Example:
    >>> weight = critical_period(steps_per_epoch=10)
    >>> [round(float(weight(step)), 3) for step in (0, 9, 10, 20)]
    [100.0, 100.0, 70.0, 49.0]
  """
  _check_weight("initial_weight", initial_weight)
  checks.check_number("decay", decay)
  if not isinstance(decay, jax.Array) and not 0 < decay <= 1:
    raise ValueError(f"decay: expected a factor in (0, 1], got {decay}")
  checks.check_positive("steps_per_epoch", steps_per_epoch)

  def schedule(count):
    epochs = jnp.asarray(count, jnp.float32) / steps_per_epoch
    epochs = epochs if by_step else jnp.floor(epochs)
    factor = jnp.asarray(decay, jnp.float32) ** epochs
    return jnp.asarray(initial_weight, jnp.float32) * factor

  return schedule


def warmup(
  value: float | jax.Array = 1.0,
  epochs: float | jax.Array = 20.0,
  *,
  steps_per_epoch: int = 1,
  by_step: bool = False,
) -> optax.Schedule:
  """Weight that grows linearly to `value`, and then stays.

  `value * min((k + 1) / epochs, 1)` at epoch k = 0, 1, ..., as in the published code of
  decoupled distillation (Zhao et al. 2022) and of ReviewKD (Chen et al. 2021), which
  count epochs from 1 and take 20. With `by_step` the weight grows within epochs too,
  from 0 at the first step.

  Args:
    value: Weight in the end; may be traced, and then is not checked.
    epochs: Epochs until it is reached; likewise.
    steps_per_epoch: Steps in an epoch; with 1 the argument counts epochs.
    by_step: Grow at every step instead of every epoch.

  Returns:
    A function from the step (0, 1, ...) to the weight.

  Raises:
    ValueError: If `value` is negative, `epochs` not above 0 or `steps_per_epoch` below
      1.

  Example:
    >>> weight = warmup(2.0, 4, steps_per_epoch=10)
    >>> [float(weight(step)) for step in (0, 9, 10, 30, 90)]
    [0.5, 0.5, 1.0, 2.0, 2.0]
  """
  _check_weight("value", value)
  checks.check_positive("epochs", epochs)
  checks.check_count("steps_per_epoch", steps_per_epoch)

  def schedule(count):
    done = jnp.asarray(count, jnp.float32) / steps_per_epoch
    done = done if by_step else jnp.floor(done) + 1
    share = jnp.minimum(done / jnp.asarray(epochs, jnp.float32), 1)
    return jnp.asarray(value, jnp.float32) * share

  return schedule


def cosine(
  value: float | jax.Array = 1.0,
  start: float | jax.Array = 0.0,
  end: float | jax.Array = 240.0,
  *,
  steps_per_epoch: int = 1,
  by_step: bool = False,
) -> optax.Schedule:
  """Weight that stays until epoch `start` and falls to 0 at `end` as half a cosine.

  `value / 2 (1 + cos(pi min(max((k - start) / (end - start), 0), 1)))` at epoch k, as
  Lv et al. 2024 weigh their Wasserstein distances from epoch 150 of 240 on.

  Args:
    value: Weight before it falls; may be traced, and then is not checked.
    start: Epoch from which it falls; likewise.
    end: Epoch from which it is 0; likewise.
    steps_per_epoch: Steps in an epoch; with 1 the argument counts epochs.
    by_step: Fall at every step instead of every epoch.

  Returns:
    A function from the step (0, 1, ...) to the weight.

  Raises:
    ValueError: If `value` or `start` is negative, `end` not above `start` or
      `steps_per_epoch` below 1.

  Example:
    >>> weight = cosine(1.0, 150, 240)
    >>> [round(float(weight(epoch)), 3) for epoch in (0, 150, 195, 239, 240)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
  """
  _check_weight("value", value)
  _check_weight("start", start)
  checks.check_number("end", end)
  numbers_given = not isinstance(start, jax.Array) and not isinstance(end, jax.Array)
  if numbers_given and end <= start:
    raise ValueError(f"end: expected an epoch after start, {start}, got {end}")
  checks.check_count("steps_per_epoch", steps_per_epoch)

  def schedule(count):
    epochs = jnp.asarray(count, jnp.float32) / steps_per_epoch
    epochs = epochs if by_step else jnp.floor(epochs)
    first, last = (jnp.asarray(epoch, jnp.float32) for epoch in (start, end))
    share = jnp.clip((epochs - first) / (last - first), 0, 1)
    return jnp.asarray(value, jnp.float32) * (1 + jnp.cos(jnp.pi * share)) / 2

  return schedule


def _check_weight(name: str, value: float | jax.Array) -> None:
  """Raises unless a number is finite and 0 or above; a traced one passes."""
  checks.check_number(name, value)
  if not isinstance(value, jax.Array) and value < 0:
    raise ValueError(f"{name}: expected 0 or above, got {value}")


def normalized(
  weights: Mapping[str, optax.Schedule | float],
) -> dict[str, optax.Schedule]:
  """The same weights, divided by their sum at every step.

  Under `critical_period` the whole loss shrinks by a factor per epoch, faster than
  an adaptive optimizer forgets how large its gradients were, so that its steps shrink
  too. Weights that always add up to one say which taps matter, and leave the size of
  the step to the learning rate.

  Args:
    weights: Weight of each loss term, a number or a schedule of the step; 0 or above
      and never all 0.

  Raises:
    ValueError: If there are none.

  Example:
    >>> weights = normalized({"conv": critical_period(3.0, 0.5), "dense": 1.0})
    >>> [round(float(weights["dense"](epoch)), 3) for epoch in (0, 1, 50)]
    [0.25, 0.4, 1.0]
  """
  if not weights:
    raise ValueError("weights: expected at least one, got none")

  def at(weight, count):
    return jnp.asarray(weight(count) if callable(weight) else weight, jnp.float32)

  def share(weight):
    def schedule(count):
      return at(weight, count) / sum(at(each, count) for each in weights.values())

    return schedule

  return {name: share(weight) for name, weight in weights.items()}


class ResetState(NamedTuple):
  """State of `reset_every`: updates so far, and the inner optimizer's state."""

  updates_so_far: jax.Array
  inner: optax.OptState


def reset_every(
  optimizer: optax.GradientTransformation, period: int
) -> optax.GradientTransformation:
  """An optimizer that forgets its state every `period` updates.

  The code published with the paper builds a new Adam for every epoch of the
  student, so its moments start from zero there; wrap the optimizer with the
  number of steps in an epoch to do the same.

  Raises:
    ValueError: If `period` is below 1.
  """
  checks.check_count("period", period)

  def init(params):
    return ResetState(jnp.zeros((), jnp.int32), optimizer.init(params))

  def update(updates, state, params=None):
    fresh = optimizer.init(updates if params is None else params)
    at_start = state.updates_so_far % period == 0
    inner = jax.tree.map(
      lambda new, old: jnp.where(at_start, new, old), fresh, state.inner
    )
    updates, inner = optimizer.update(updates, inner, params)
    return updates, ResetState(state.updates_so_far + 1, inner)

  return optax.GradientTransformation(init, update)

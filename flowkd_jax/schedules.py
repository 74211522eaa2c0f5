"""Schedules of loss weights over training, in the form of optax schedules."""

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
  """Exponentially decaying weight for the losses of intermediate layers.

  The weight is `initial_weight * decay^k` at epoch k (Passalis et al. 2020, Eq. 10).
  With the defaults it is above 2 in the critical period, while connections form
  (k <= 10), and below 0.01 from k = 26. It changes with every epoch as in the paper, or
  smoothly with every step.

  Args:
    initial_weight: Weight in the first epoch. May be traced; it is not checked then.
    decay: Factor per epoch, gamma in the paper. May be traced; it is not checked then.
    steps_per_epoch: Number of steps in an epoch. With 1 the schedule is a function of
      the epoch.
    by_step: Decay with every step in place of every epoch.

  Returns:
    A function from the step (0, 1, ...) to the weight.

  Raises:
    TypeError: If an argument is not a number, or `steps_per_epoch` is not whole.
    ValueError: If `initial_weight` is negative, `decay` is outside (0, 1], or
      `steps_per_epoch` is below 1.

  Example:
    >>> weight = critical_period(steps_per_epoch=10)
    >>> [round(float(weight(step)), 3) for step in (0, 9, 10, 20)]
    [100.0, 100.0, 70.0, 49.0]
  """
  _check_weight("initial_weight", initial_weight)
  checks.check_number("decay", decay)
  if not isinstance(decay, jax.Array) and not 0 < decay <= 1:
    raise ValueError(f"decay: expected a factor in (0, 1], got {decay}")
  checks.check_count("steps_per_epoch", steps_per_epoch)

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
  """Weight that grows linearly to `value` and then stays constant.

  The weight is `value * min((k + 1) / epochs, 1)` at epoch k = 0, 1, .... The published
  code of decoupled distillation (Zhao et al. 2022) and of ReviewKD (Chen et al. 2021)
  has this warm-up with 20 epochs, which it counts from 1. With `by_step` the weight
  grows within epochs too, from 0 at the first step.

  Args:
    value: Final weight. May be traced; it is not checked then.
    epochs: Number of epochs until the final weight. May be traced; it is not checked
      then.
    steps_per_epoch: Number of steps in an epoch. With 1 the schedule is a function of
      the epoch.
    by_step: Grow with every step in place of every epoch.

  Returns:
    A function from the step (0, 1, ...) to the weight.

  Raises:
    TypeError: If an argument is not a number, or `steps_per_epoch` is not whole.
    ValueError: If `value` is negative, `epochs` is not above 0, or `steps_per_epoch` is
      below 1.

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
  """Weight that is constant until epoch `start` and falls to 0 at `end` as a cosine.

  The weight is `value / 2 (1 + cos(pi min(max((k - start) / (end - start), 0), 1)))` at
  epoch k. Lv et al. 2024 use this schedule for their Wasserstein distance, from epoch
  150 to 240.

  Args:
    value: Weight before it falls. May be traced; it is not checked then.
    start: Epoch at which the weight begins to fall. May be traced; it is not checked
      then.
    end: Epoch at which the weight reaches 0. May be traced; it is not checked then.
    steps_per_epoch: Number of steps in an epoch. With 1 the schedule is a function of
      the epoch.
    by_step: Fall with every step in place of every epoch.

  Returns:
    A function from the step (0, 1, ...) to the weight.

  Raises:
    TypeError: If an argument is not a number, or `steps_per_epoch` is not whole.
    ValueError: If `value` or `start` is negative, `end` is not above `start`, or
      `steps_per_epoch` is below 1.

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
  """Raises unless a number is finite and 0 or above. A traced number passes."""
  checks.check_number(name, value)
  if not isinstance(value, jax.Array) and value < 0:
    raise ValueError(f"{name}: expected 0 or above, got {value}")


def normalized(
  weights: Mapping[str, optax.Schedule | float],
) -> dict[str, optax.Schedule]:
  """Schedules divided by their sum at every step.

  Under `critical_period` the whole loss shrinks by a factor per epoch. This is faster
  than an adaptive optimizer forgets the size of earlier gradients, so its steps shrink
  too. Normalised weights always sum to one: they set the relative importance of the
  taps, and the learning rate alone sets the size of the steps.

  Args:
    weights: Weight of each loss term, a number or a schedule of the step. Weights must
      be 0 or above, and at no step may all of them be 0.

  Raises:
    ValueError: If there are no weights.

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
  """State of `reset_every`.

  Attributes:
    updates_so_far: Number of updates, a scalar in int32.
    inner: State of the wrapped optimizer.
  """

  updates_so_far: jax.Array
  inner: optax.OptState


def reset_every(
  optimizer: optax.GradientTransformation, period: int
) -> optax.GradientTransformation:
  """An optimizer that resets its state every `period` updates.

  The code published with the paper (Passalis et al. 2020) builds a new Adam in every
  epoch of the student, so its moments start from zero. A period of one epoch does the
  same.

  Args:
    optimizer: The optimizer to wrap.
    period: Number of updates between two resets.

  Raises:
    TypeError: If `period` is not a whole number.
    ValueError: If `period` is below 1.
  """
  checks.check_count("period", period)

  def init(params):
    return ResetState(jnp.zeros((), jnp.int32), optimizer.init(params))

  def update(updates, state, params=None):
    # `where` on each array of the state keeps the update free of control flow, so it
    # works inside `scan` and `vmap`.
    fresh = optimizer.init(updates if params is None else params)
    at_start = state.updates_so_far % period == 0
    inner = jax.tree.map(
      lambda new, old: jnp.where(at_start, new, old), fresh, state.inner
    )
    updates, inner = optimizer.update(updates, inner, params)
    return updates, ResetState(state.updates_so_far + 1, inner)

  return optax.GradientTransformation(init, update)

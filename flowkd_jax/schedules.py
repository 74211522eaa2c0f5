"""Schedules of loss weights over training, as optax schedules of the step."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from flowkd_jax._numerics import checks

__all__ = [
  "ResetState",
  "critical_period",
  "normalized",
  "reset_every",
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
  checks.check_number("initial_weight", initial_weight)
  checks.check_number("decay", decay)
  if not isinstance(initial_weight, jax.Array) and initial_weight < 0:
    raise ValueError(f"initial_weight: expected 0 or above, got {initial_weight}")
  if not isinstance(decay, jax.Array) and not 0 < decay <= 1:
    raise ValueError(f"decay: expected a factor in (0, 1], got {decay}")
  checks.check_positive("steps_per_epoch", steps_per_epoch)

  def schedule(count):
    epochs = jnp.asarray(count, jnp.float32) / steps_per_epoch
    epochs = epochs if by_step else jnp.floor(epochs)
    factor = jnp.asarray(decay, jnp.float32) ** epochs
    return jnp.asarray(initial_weight, jnp.float32) * factor

  return schedule


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

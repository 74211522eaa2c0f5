"""Optimizers of the jobs, made from phases of epochs and learning rates."""

import jax.numpy as jnp
import numpy as np
import optax

from flowkd_jax import schedules
from flowkd_jax.jobs import limits

__all__ = [
  "adam",
  "learning_rate",
  "number_of_epochs",
  "phases",
  "sgd",
]

_EPOCHS, _RATE = limits.Limits(least=1, most=10**6), limits.Limits(above=0)


def phases(text: str, flag: str) -> list[tuple[int, float]]:
  """Parse phases: `"50@1e-3,30@1e-4"` becomes `[(50, 0.001), (30, 0.0001)]`.

  Raises:
    ValueError: If the text is malformed.
  """
  try:
    pairs = [part.split("@") for part in text.split(",")]
    result = [(int(epochs), float(rate)) for epochs, rate in pairs]
    for epochs, rate in result:
      limits.check_number(flag, epochs, _EPOCHS)
      limits.check_number(flag, rate, _RATE)
  except ValueError:
    raise ValueError(
      f"{flag}: expected EPOCHS@LEARNING_RATE, separated by commas, such as "
      "50@1e-3,30@1e-4, with whole epochs of 1 or more and finite rates above 0; got "
      f"{text!r}"
    ) from None
  return result


def number_of_epochs(text: str) -> int:
  """Total number of epochs of all phases."""
  return sum(epochs for epochs, _ in phases(text, "epochs"))


def adam(
  epochs: str,
  *,
  steps_per_epoch: int,
  decay: str = "constant",
  beta2: float = 0.999,
  reset_each_epoch: bool = False,
) -> optax.GradientTransformation:
  """Adam with a learning rate per phase.

  Args:
    epochs: Phases as in the flags, such as "50@1e-3,30@1e-4".
    steps_per_epoch: Number of steps in an epoch.
    decay: Schedule of the learning rate within each phase: "constant", or "cosine" for
      a decay to 0.
    beta2: Decay of the mean of squared gradients.
    reset_each_epoch: True if the moments are reset at every epoch.
  """
  moments = optax.scale_by_adam(b2=beta2)
  if reset_each_epoch:
    moments = schedules.reset_every(moments, steps_per_epoch)
  rates = _learning_rates(epochs, steps_per_epoch, decay)
  return optax.chain(moments, optax.scale_by_learning_rate(rates))


def sgd(
  epochs: str,
  *,
  steps_per_epoch: int,
  decay: str = "constant",
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 0.0,
  warmup_epochs: float = 0.0,
) -> optax.GradientTransformation:
  """Stochastic gradient descent with momentum and a learning rate per phase.

  As in PyTorch, weight decay is added to the gradient of every parameter, and the
  learning rate multiplies the momentum, not the gradients in it.

  Args:
    epochs: Phases as in the flags, such as "150@0.1,50@0.01".
    steps_per_epoch: Number of steps in an epoch.
    decay: Schedule of the learning rate within each phase: "constant", or "cosine" for
      a decay to 0.
    momentum: Decay of the sum of gradients.
    nesterov: True to use Nesterov's momentum.
    weight_decay: Weight decay.
    warmup_epochs: Number of epochs in which the learning rate grows linearly from 0, at
      every step.
  """
  rates = _learning_rates(epochs, steps_per_epoch, decay)
  if warmup_epochs:
    rates = _warmed_up(rates, warmup_epochs * steps_per_epoch)
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum, nesterov=nesterov),
    optax.scale_by_learning_rate(rates),
  )


def _warmed_up(rates: optax.Schedule, steps: float) -> optax.Schedule:
  """Learning rates with linear warm-up; the first step has a rate above 0."""
  return lambda count: rates(count) * jnp.minimum((count + 1) / steps, 1)


def _learning_rates(epochs, steps_per_epoch, decay):
  parts = phases(epochs, "epochs")
  rates = [learning_rate(rate, n * steps_per_epoch, decay) for n, rate in parts]
  ends = np.cumsum([n for n, _ in parts])[:-1]
  return optax.join_schedules(rates, (ends * steps_per_epoch).tolist())


def learning_rate(rate: float, steps: int, decay: str) -> optax.Schedule:
  """Learning rate that is constant, or decays to 0 in `steps` as a cosine."""
  if decay == "cosine":
    return optax.cosine_decay_schedule(rate, steps)
  return optax.constant_schedule(rate)

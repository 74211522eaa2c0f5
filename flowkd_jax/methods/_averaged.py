"""Wrapper that averages the weights of any method (Polyak and Juditsky, 1992).

The exported network is the exponential moving average of the trained network, including
the statistics of BatchNorm:

    average = d average + (1 - d) trained,   d = min(decay, (1 + step) / (10 + step))

The decay starts small, so that the first updates, far from a solution, lose their
influence quickly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowkd_jax.methods import _method
from flowkd_jax.methods import _optimizers


class AveragedState(NamedTuple):
  """State of the method, with averages of its parameters and collections."""

  trained: _method.TrainState
  params: _method.PyTree
  collections: _method.PyTree


def averaged(method: _method.Method, *, decay: float = 0.999) -> _method.Method:
  """Make a method export exponential moving averages of its networks.

  Args:
    method: A method trained by gradients; its state is a `TrainState`.
    decay: Share of the old average that an update keeps. The average covers about the
      last `1 / (1 - decay)` updates.

  Raises:
    ValueError: If `decay` is outside [0, 1); in `init`, if the optimizer is one that
      averages itself (`optax.contrib.schedule_free`), or trains at other parameters
      than those to keep (`optax.contrib.sam`, unless `opaque_mode` is set).
  """
  if not 0 <= decay < 1:
    raise ValueError(f"decay: expected a share in [0, 1), got {decay}")

  def init(key, images):
    state = method.init(key, images)
    _optimizers.check_trains_evaluated("averaged", state.opt_state)
    # Copies: the state is donated to the update, and a buffer can be donated only once.
    return AveragedState(
      state, *jax.tree.map(jnp.array, (state.params, state.collections))
    )

  def update(state, batch, constants):
    trained, metrics = method.update(state.trained, batch, constants)
    step = trained.step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    params, collections = jax.tree.map(
      lambda old, new: (kept * old + (1 - kept) * new).astype(old.dtype),
      (state.params, state.collections),
      (trained.params, trained.collections),
    )
    return AveragedState(trained, params, collections), metrics

  def export(state):
    return method.export(
      state.trained.replace(params=state.params, collections=state.collections)
    )

  observe = _method.of_wrapped(method)
  return method._replace(init=init, update=update, export=export, observe=observe)

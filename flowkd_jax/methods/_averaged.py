"""Weight averaging (Polyak and Juditsky, 1992), around any method.

The network that is exported is the exponential moving average of the one that is
trained, statistics of BatchNorm included:

    average = d average + (1 - d) trained,   d = min(decay, (1 + step) / (10 + step))

so that the first updates, still far from anything, are soon forgotten.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowkd_jax.methods import _method
from flowkd_jax.methods import _optimizers


class AveragedState(NamedTuple):
  """The state of the method, and the averages of its parameters and collections."""

  trained: _method.TrainState
  params: _method.PyTree
  collections: _method.PyTree


def averaged(method: _method.Method, *, decay: float = 0.999) -> _method.Method:
  """The method, exporting averaged networks.

  Args:
    method: A method trained by gradients; its state is a `TrainState`.
    decay: Share of the average that is kept at an update; the average reaches over
      some `1 / (1 - decay)` updates.

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
    # Copies: the state is donated to the update, and no buffer can be twice.
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

"""Wrapper that measures the path of a method's parameters during training.

Any method that is trained by gradients can be wrapped. With parameters `w_i` after
update i and steps `s_i = w_i - w_{i-1}`, it records after every update k:

    distance      |w_k - w_0|, distance of the parameters from the initialisation
    path          sum_i |s_i|, length of the path
    straightness  distance / path; 1 if all steps have the same direction
    variation     1 - |mean_i s_i|^2 / mean_i |s_i|^2, the variance of the steps divided
                  by their mean square; 0 if all steps are equal, 1 if they cancel

All norms are L2 norms over all parameters. The definitions are our own: we expect a
shorter and straighter path the more gradually a network can learn its task. The values
depend on the learning rate and the number of updates, so compare only runs with the
same settings of both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax.methods import _method


class TrajectoryState(NamedTuple):
  """State of the method, with its initial parameters and sums over its steps.

  Attributes:
    trained: State of the method.
    start: Initial parameters.
    path: Sum of the norms of all steps.
    squares: Sum of the squared norms of all steps.
  """

  trained: _method.TrainState
  start: _method.PyTree
  path: Float[Array, ""]
  squares: Float[Array, ""]


def with_trajectory(method: _method.Method) -> _method.Method:
  """Add the metrics `trajectory/...` to every update of a method.

  Args:
    method: A method trained by gradients; its state is a `TrainState`.
  """

  def init(key, images):
    state = method.init(key, images)
    # Copies: the state is donated to the update, and a buffer can be donated only once.
    start = jax.tree.map(jnp.array, state.params)
    return TrajectoryState(state, start, jnp.zeros(()), jnp.zeros(()))

  def update(state, batch, constants):
    trained, metrics = method.update(state.trained, batch, constants)
    square = _squared_distance(trained.params, state.trained.params)
    path, squares = state.path + jnp.sqrt(square), state.squares + square
    moved = _squared_distance(trained.params, state.start)
    count = trained.step.astype(jnp.float32)
    metrics = metrics | {
      "trajectory/distance": jnp.sqrt(moved),
      "trajectory/path": path,
      "trajectory/straightness": _ratio(jnp.sqrt(moved), path),
      "trajectory/variation": 1 - _ratio(moved, count * squares),
    }
    return TrajectoryState(trained, state.start, path, squares), metrics

  return method._replace(
    init=init,
    update=update,
    export=lambda state: method.export(state.trained),
    observe=_method.of_wrapped(method),
  )


def _squared_distance(one, other):
  gaps = jax.tree.map(lambda a, b: (a - b).astype(jnp.float32), one, other)
  return optax.tree.norm(gaps, squared=True)


def _ratio(part, whole):
  """Ratio of at most 1, also after rounding; 1 if nothing has moved yet."""
  return jnp.minimum(jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 1), 1)

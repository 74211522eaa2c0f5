"""Path of a method's parameters: how far and how straight they move.

Around any method that is trained by gradients. With parameters `w_i` after update i and
steps `s_i = w_i - w_{i-1}`, recorded after every update k:

    distance      |w_k - w_0|, how far the solution lies from the initialisation
    path          sum_i |s_i|, how long the way there was
    straightness  distance / path, 1 if all steps point the same way
    variation     1 - |mean_i s_i|^2 / mean_i |s_i|^2, the variance of the steps in
                  units of their mean square: 0 if all are the same, 1 if they cancel

in the L2 norm over all parameters. The definitions are ours; the more gradually a
network can learn something, the shorter and straighter the path. They depend on the
learning rate and the number of updates: compare runs that share both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax.methods import _method


class TrajectoryState(NamedTuple):
  """The state of the method, where it began, and sums over its steps.

  Attributes:
    trained: State of the method.
    start: Its first parameters.
    path: Sum of the norms of all steps.
    squares: Sum of their squares.
  """

  trained: _method.TrainState
  start: _method.PyTree
  path: Float[Array, ""]
  squares: Float[Array, ""]


def with_trajectory(method: _method.Method) -> _method.Method:
  """The method, with the metrics `trajectory/...` of every update.

  Args:
    method: A method trained by gradients; its state is a `TrainState`.
  """

  def init(key, images):
    state = method.init(key, images)
    # Copies: the state is donated to the update, and no buffer can be twice.
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
  """At most 1, also after rounding; 1 where nothing has moved yet."""
  return jnp.minimum(jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 1), 1)

"""Calls of optax optimizers, each on the parameter tree of one network.

An optimizer sees the parameters of one network under the network's own names, so that
masks and `optax.multi_transform` can select parameters by name. Parameters that are
learnt beside a network, such as a projection, have a separate optimizer state
(`PerTree`). Global norms, as in `optax.clip_by_global_norm`, are norms of one tree.

Besides gradients, state and parameters, `update` passes the arguments that some
optimizers need:

    value       loss of the global batch           reduce_on_plateau, polyak_sgd, momo
    grad        its gradient                       lbfgs, line searches
    value_fn    `params -> loss` on this batch     lbfgs, line searches
    grad_fn     `(params, i) -> gradient`          sam with `opaque_mode`
    obj_fn      as `value_fn`                      sophia

Some optimizers train other parameters than those to evaluate. `evaluated` returns the
parameters to evaluate: the averages of `schedule_free`, and the point to which `sam`
returns.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from optax import contrib

# Words in errors of optax, and the advice that replaces such an error.
_REMEDIES = {
  "'fast'": "optax.lookahead trains a pair of parameter trees (LookaheadParams), a "
  "method one tree; pass the inner optimizer, and methods.averaged(method) for slowly "
  "moving weights",
  "MaskedNode": "one that is masked needs the gradient of its own parameters; pass "
  "mask_compatible_extra_args=True to optax.partition (which optax.multi_transform "
  "calls) or optax.masked",
}
PyTree = Any
ValueFunction = Callable[[PyTree], jax.Array]


class Optimizer(Protocol):
  """An `optax.GradientTransformation`, or a `PerTree` of several."""

  @property
  def init(self) -> Callable[[PyTree], PyTree]:
    """`params -> state`."""
    ...

  @property
  def update(self) -> Callable[..., tuple[PyTree, PyTree]]:
    """`(gradients, state, params, ...) -> (updates, state)`."""
    ...


@dataclasses.dataclass(frozen=True)
class PerTree:
  """Optimizer that applies one optimizer to each of several parameter trees.

  A tree without arrays has no optimizer state.

  Attributes:
    optimizers: Optimizer of each tree, by the name of the tree.
    split: Function from all parameters to a dictionary of trees. By default the
      parameters are such a dictionary.
    join: Inverse of `split`.
  """

  optimizers: Mapping[str, Optimizer]
  split: Callable[[PyTree], Mapping[str, PyTree]] = dict
  join: Callable[[Mapping[str, PyTree]], PyTree] = dict

  def init(self, params: PyTree) -> dict[str, PyTree]:
    """Optimizer state of each tree, by the name of the tree."""
    return {
      name: initial_state(self.optimizers[name], tree)
      for name, tree in self.split(params).items()
      if jax.tree.leaves(tree)
    }

  def update(
    self,
    gradients: PyTree,
    state: Mapping[str, PyTree],
    params: PyTree,
    *,
    value: ArrayLike,
    value_fn: ValueFunction,
  ) -> tuple[PyTree, dict[str, PyTree]]:
    """Returns `(updates, state)`, as `optax` does."""
    trees, parts = self.split(params), dict(self.split(gradients))
    new = dict(state)
    for name in state:
      parts[name], new[name] = update(
        self.optimizers[name],
        parts[name],
        state[name],
        trees[name],
        value=value,
        value_fn=lambda tree, name=name: value_fn(self.join({**trees, name: tree})),
      )
    return self.join(parts), new

  def evaluated(self, state: Mapping[str, PyTree], params: PyTree) -> PyTree:
    """Parameters to evaluate; see the function `evaluated`."""
    trees = dict(self.split(params))
    for name, tree in trees.items():
      if name in state:
        trees[name] = evaluated(self.optimizers[name], state[name], tree)
    return self.join(trees)


def initial_state(optimizer: Optimizer, params: PyTree) -> PyTree:
  """State of the optimizer for these parameters.

  Raises:
    TypeError: If `optimizer` is not an optax optimizer.
  """
  if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
    raise TypeError(
      "optimizer: expected an optax.GradientTransformation such as optax.adam(1e-3), "
      f"got a {type(optimizer).__name__}"
    )
  return optimizer.init(params)


def update(
  optimizer: Optimizer,
  gradients: PyTree,
  state: PyTree,
  params: PyTree,
  *,
  value: ArrayLike,
  value_fn: ValueFunction,
) -> tuple[PyTree, PyTree]:
  """Returns `(updates, state)` of any optimizer.

  Args:
    optimizer: The optimizer.
    gradients: Gradients of the loss of the global batch.
    state: State of the optimizer.
    params: The parameters.
    value: Loss of the global batch at `params`.
    value_fn: `params -> loss` of the global batch. Its gradient is the gradient of the
      global loss.

  Raises:
    ValueError: If the optimizer needs an argument that is not in the table above, or is
      `optax.lookahead`, which trains a pair of parameter trees.
  """
  if isinstance(optimizer, PerTree):
    return optimizer.update(gradients, state, params, value=value, value_fn=value_fn)

  # A line search passes the arguments that it does not take on to `value_fn`, by name.
  def value_of(tree, grad_fn=None, obj_fn=None):
    del grad_fn, obj_fn
    return value_fn(_filled(tree, params))

  arguments = {
    "value": value,
    "grad": gradients,
    "value_fn": value_of,
    "grad_fn": lambda tree, _: jax.grad(value_of)(tree),
    "obj_fn": value_of,
  }
  return _update(optimizer, arguments, (gradients, state, params))


def _update(optimizer, arguments, positional):
  """Update with those arguments that the optimizer accepts."""
  takes_arguments = isinstance(
    optimizer, optax.GradientTransformationExtraArgs | optax.MultiSteps
  )
  left = dict(arguments) if takes_arguments else {}
  while True:
    try:
      return optimizer.update(*positional, **left)
    except (AttributeError, ValueError) as error:
      for sign, remedy in _REMEDIES.items():
        if sign in str(error):
          raise ValueError(f"optimizer: {remedy}") from error
      raise
    except TypeError as error:
      # Tried out, because the signature of a chain does not show what its parts take.
      refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
      if refused and left.pop(refused[1], None) is not None:
        continue
      missing = re.search(r"missing .* required .* argument.*: (.*)", str(error))
      if not missing:
        raise
      raise ValueError(
        f"optimizer: its update needs {missing[1]}, which training does not have; "
        f"training passes {', '.join(arguments)} to optimizers that take them. Use "
        "another optimizer"
      ) from error


def _filled(tree, params):
  """Replace the leaves that `optax.masked` hid by the parameters."""
  return jax.tree.map(
    lambda leaf, own: own if _is_hidden(leaf) else leaf,
    tree,
    params,
    is_leaf=_is_hidden,
  )


def _is_hidden(leaf):
  return isinstance(leaf, optax.MaskedNode)


def evaluated(optimizer: Optimizer, state: PyTree, params: PyTree) -> PyTree:
  """Parameters to evaluate and to keep; some optimizers hold them in their state.

  `optax.contrib.schedule_free` evaluates its averages. `optax.contrib.sam`, between its
  two steps, evaluates the parameters to which it returns. All other optimizers evaluate
  `params`.

  Args:
    optimizer: The optimizer.
    state: State of the optimizer.
    params: Parameters that the optimizer trains.
  """
  if isinstance(optimizer, PerTree):
    return optimizer.evaluated(state, params)
  for kept in _keeping(state):
    if isinstance(kept, contrib.ScheduleFreeState):
      average = functools.partial(_average, kept.b1)
      params = _where_kept(average, params, kept.z)
    elif kept.cache is not None:
      restored = functools.partial(_restored, kept.steps_since_sync)
      params = _where_kept(restored, params, kept.cache)
  return params


def check_trains_evaluated(name: str, state: PyTree) -> None:
  """Raise ValueError if the optimizer trains other parameters than it evaluates.

  Args:
    name: Name of the function that reads the trained parameters, for the message.
    state: State of the optimizer.
  """
  for kept in _keeping(state):
    if isinstance(kept, contrib.ScheduleFreeState):
      raise ValueError(
        f"{name}: optax.contrib.schedule_free averages the parameters itself, and "
        f"trains others; leave {name} out, or take another optimizer"
      )
    if kept.cache is not None:
      raise ValueError(
        f"{name}: optax.contrib.sam moves the parameters to an adversarial point at "
        "every other step; make it with opaque_mode=True"
      )


def _keeping(state):
  def is_kept(leaf):
    return isinstance(leaf, contrib.ScheduleFreeState | contrib.SAMState)

  return [leaf for leaf in jax.tree.leaves(state, is_leaf=is_kept) if is_kept(leaf)]


def _average(b1, param, z):
  """Evaluation parameters, as by `optax.contrib.schedule_free_eval_params`."""
  return ((param - (1 - b1) * z) / b1).astype(param.dtype)


def _restored(steps_since_sync, param, cached):
  return jnp.where(steps_since_sync > 0, cached, param)


def _where_kept(function, params, kept):
  """Apply `function` to the parameters and the kept ones; hidden leaves stay."""
  return jax.tree.map(
    lambda own, param: param if _is_hidden(own) else function(param, own),
    kept,
    params,
    is_leaf=_is_hidden,
  )


def globally(value_fn: ValueFunction, axis_name: str | None) -> ValueFunction:
  """Make the gradient of a function the mean over the devices.

  Every device differentiates the sum of all devices' equal losses with respect to its
  own copy of the parameters; the mean over devices is the gradient.
  """
  if axis_name is None:
    return value_fn

  @jax.custom_vjp
  def shared(params):
    return params

  def backward(_, gradients):
    return (lax.pmean(gradients, axis_name),)

  shared.defvjp(lambda params: (params, None), backward)
  return lambda params: value_fn(shared(params))

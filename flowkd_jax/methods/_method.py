"""Interface of a method for the training loop: `init`, `update`, `export`, `constants`.

Most methods are a loss and an optimizer; `gradient_method` makes their `update`. A
method may as well train several networks at once (its parameters are any pytree, its
export any number of networks), or update in another way altogether: a round of
federated averaging is an `update` whose batch is the round's clients.
"""

import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax.methods import _diagnostics
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _micro_batches
from flowkd_jax.methods import _optimizers
from flowkd_jax.teacher_cache import Network
from flowkd_jax.teacher_cache import Teacher

PyTree = Any
Batch = Mapping[str, Array]
Metrics = dict[str, Float[Array, ""]]
Variables = Mapping[str, Any]


class Method(NamedTuple):
  """A method of training, as pure functions.

  Attributes:
    init: `(key, images) -> state`; `images` is an example batch, for its shape.
    update: `(state, batch, constants) -> (state, metrics)`. Written for one device
      that holds some rows of the batch: collectives over the axis that the method
      was made with make state and metrics the same on all devices. `batch` has what
      the data yields, for images "image", "label" and "mask".
    export: `state -> {name: network}`, what is evaluated and kept.
    constants: Arrays that `update` reads and never writes, such as a frozen teacher.
      Handed to `update` rather than closed over, so that they are neither compiled
      into the program nor saved with every checkpoint.
    observe: What diagnostics asks now and then: arguments as of `update`, and the
      metrics that `_diagnostics` describes; nothing is updated. None if there are none.
    check: `(images, num_classes)` raises ValueError if networks, taps or heads do not
      fit the data; `images` is an example or its shape. None if there is nothing to
      check.
    teacher: The frozen network, if the method reads of it only its outputs on the
      images of the batch: they may be computed before and come in the batch.
    axis_name: Name of the mapped axis that `update` and `observe` use; None if they
      expect the whole batch, as they do on one device and in mode "jit".
  """

  init: Callable[[Key[Array, ""], Float[Array, "batch ..."]], PyTree]
  update: Callable[[PyTree, Batch, PyTree], tuple[PyTree, Metrics]]
  export: Callable[[PyTree], dict[str, Network]]
  constants: PyTree = ()
  observe: Callable[[PyTree, Batch, PyTree], Metrics] | None = None
  check: _heads.Check | None = None
  teacher: Teacher | None = None
  axis_name: str | None = parallel.AXIS


@flax.struct.dataclass
class TrainState:
  """State of a method that is trained by gradients.

  Attributes:
    step: Updates so far.
    key: Randomness of the run; `update` folds in the step.
    params: What the optimizer updates, of one network or several.
    collections: Other variables, such as `batch_stats`.
    opt_state: State of the optimizer.
  """

  step: Int[Array, ""]
  key: Key[Array, ""]
  params: PyTree
  collections: PyTree
  opt_state: optax.OptState


class LossFunction(Protocol):
  """Loss of the global batch, and what is to be kept of the forward pass."""

  def __call__(
    self,
    variables: dict[str, Any],
    batch: Batch,
    constants: PyTree,
    *,
    step: Int[Array, ""],
    key: Key[Array, ""],
  ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
    """Returns `(loss, (updated collections, metrics))`.

    The loss and the metrics are those of the global batch: the same on every device
    (the functions of `flowkd_jax.losses` are, given the axis).
    """
    ...


def gradient_method(
  *,
  init_variables: Callable[[Key[Array, ""], Array], Variables],
  loss: LossFunction,
  optimizer: _optimizers.Optimizer,
  export: Callable[[Variables], dict[str, Network]],
  constants: PyTree = (),
  compare: Callable[[dict[str, Any], Batch, PyTree, Key[Array, ""]], Metrics]
  | None = None,
  check: _heads.Check | None = None,
  micro_batches: int = 1,
  axis_name: str | None,
) -> Method:
  """A method from a loss and an optimizer.

  Args:
    init_variables: `(key, images) -> variables`; "params" is trained, other
      collections are carried along.
    loss: The loss; differentiated with respect to "params" only. With micro-batches
      a `FeatureLoss`: the features of each row, and the loss as a function of them.
    optimizer: Updates "params"; `PerTree` where they are more than one
      network's own tree.
    export: Networks from the variables.
    constants: See `Method`.
    compare: `(variables, batch, constants, key) -> metrics`, for diagnostics only.
    check: See `Method`.
    micro_batches: Number of parts in which each device computes the features of its
      rows, one after another, so that memory is needed for the activations of one
      part. Loss and gradient are those of the whole batch, at the cost of a second
      forward pass. BatchNorm normalises by the statistics of a part, and its running
      averages move once for each; dropout draws other units than without parts.
    axis_name: Mapped axis over which the batch is split; None when the whole batch
      is at hand.

  Raises:
    TypeError: If there are micro-batches, and the loss is no `FeatureLoss`.
    ValueError: If `micro_batches` is not a positive integer.
  """
  loss = _in_micro_batches(loss, micro_batches)

  def init(key, images):
    variables = dict(init_variables(key, images))
    params = variables.pop("params")
    # Compiled: called array by array, it would compile a program for every shape.
    rest = jax.jit(functools.partial(_first_state, optimizer))(key, params)
    return TrainState(params=params, collections=variables, **rest)

  def step_key(state):
    key = jax.random.fold_in(state.key, state.step)
    if axis_name is None:
      return key
    return jax.random.fold_in(key, lax.axis_index(axis_name))

  def update(state, batch, constants):
    key = step_key(state)

    def objective(params):
      variables = {"params": params, **state.collections}
      return loss(variables, batch, constants, step=state.step, key=key)

    (value, (collections, metrics)), gradients = jax.value_and_grad(
      objective, has_aux=True
    )(state.params)
    # Every device differentiates the sum of all devices' equal losses with respect
    # to its own copy of the parameters; the mean over devices is the gradient.
    gradients, collections = _mean_over(axis_name, (gradients, collections))
    updates, opt_state = _optimizers.update(
      optimizer,
      gradients,
      state.opt_state,
      state.params,
      value=value,
      value_fn=_optimizers.globally(lambda params: objective(params)[0], axis_name),
    )
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      collections=collections,
      opt_state=opt_state,
    )
    norm = optax.tree.norm(gradients)
    return state, {"loss": value, "gradient_norm": norm, **metrics}

  def observe(state, batch, constants):
    key = step_key(state)

    def terms(params):
      variables = {"params": params, **state.collections}
      _, (_, metrics) = loss(variables, batch, constants, step=state.step, key=key)
      return _diagnostics.weighted_terms(metrics)

    gradients = _mean_over(axis_name, _diagnostics.gradients(terms, state.params))
    metrics = _diagnostics.gradient_norms(gradients)
    if compare is not None:
      variables = {"params": state.params, **state.collections}
      metrics |= compare(variables, batch, constants, key)
    return metrics

  def exported(state):
    params = _optimizers.evaluated(optimizer, state.opt_state, state.params)
    return export({"params": params, **state.collections})

  return Method(init, update, exported, constants, observe, check, axis_name=axis_name)


def _in_micro_batches(loss, number):
  _micro_batches.check_number(number)
  if number == 1:
    return loss
  if not isinstance(loss, _micro_batches.FeatureLoss):
    raise TypeError(
      "loss: expected a FeatureLoss(features, loss) with micro_batches, as any other "
      f"function needs the whole batch at once, got {type(loss).__name__}"
    )
  features = _micro_batches.by_micro_batches(loss.features, number)
  return loss._replace(features=features)


def _first_state(optimizer, key, params):
  return {
    "step": jnp.zeros((), jnp.int32),
    "key": jax.random.fold_in(key, 1),
    "opt_state": _optimizers.initial_state(optimizer, params),
  }


def as_arrays(tree: PyTree) -> PyTree:
  """The leaves as arrays; those of the host stay there, however large they are."""
  return jax.tree.map(
    lambda leaf: leaf if isinstance(leaf, np.ndarray) else jnp.asarray(leaf), tree
  )


def of_wrapped(method: Method) -> Callable[[PyTree, Batch, PyTree], Metrics] | None:
  """`observe` of a method around `method`, whose state has it as `trained`."""
  observe = method.observe
  if observe is None:
    return None
  return lambda state, batch, constants: observe(state.trained, batch, constants)


def also_checked(method: Method, check: _heads.Check) -> Method:
  """The method, whose `check` makes another check first."""
  others = method.check

  def both(images, num_classes):
    check(images, num_classes)
    if others is not None:
      others(images, num_classes)

  return method._replace(check=both)


def _mean_over(axis_name, tree):
  """The mean over the devices; of integers, which are equal, one of them."""
  if axis_name is None:
    return tree

  def over_devices(leaf):
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return (lax.pmean if floating else lax.pmax)(leaf, axis_name)

  return jax.tree.map(over_devices, tree)


def weighted_loss(
  terms: Mapping[str, Float[Array, ""]], weights: Mapping[str, ArrayLike]
) -> tuple[Float[Array, ""], Metrics]:
  """The sum of the terms by their weights, and both as metrics.

  Args:
    terms: Loss terms by name.
    weights: Weight of each term.

  Returns:
    `(loss, metrics)`, with `loss/NAME` before weighting and `weight/NAME`.

  Raises:
    ValueError: If there is not exactly one weight per term.
  """
  current = {name: jnp.asarray(weight, jnp.float32) for name, weight in weights.items()}
  metrics = {f"loss/{name}": value for name, value in terms.items()}
  metrics |= {f"weight/{name}": weight for name, weight in current.items()}
  return losses.weighted_sum(terms, current), metrics


def at_step(value: optax.Schedule | float, step: Int[Array, ""]) -> Float[Array, ""]:
  """A number, or what a schedule says at the step."""
  return jnp.asarray(value(step) if callable(value) else value, jnp.float32)


def check_not_negative(name: str, value: optax.Schedule | float) -> None:
  """Raises unless a number is finite and 0 or above; a schedule passes."""
  if callable(value):
    return
  checks.check_number(name, value)
  if not isinstance(value, jax.Array) and value < 0:
    raise ValueError(f"{name}: expected 0 or above, got {value}")


def forward(
  model: capture.AnyModel,
  variables: Variables,
  batch: Batch,
  *,
  taps: Sequence[str] = (),
  key: Key[Array, ""],
) -> tuple[Float[Array, "batch classes"], dict[str, Array], dict[str, Any]]:
  """Applies a network in training: `(logits, taps, updated collections)`.

  All collections but "params" may be updated; dropout takes `key`.
  """
  mutable = [name for name in variables if name != "params"]
  output = capture.apply_with_taps(
    model,
    variables,
    batch["image"],
    taps=taps,
    train=True,
    mask=batch["mask"],
    rngs={"dropout": key},
    mutable=mutable,
  )
  (logits, activations), updated = output if mutable else (output, {})
  capture.check_logits(model, logits)
  return logits, activations, updated

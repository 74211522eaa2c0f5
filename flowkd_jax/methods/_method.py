"""Interface of a method for the training loop: `init`, `update`, `export`, `constants`.

Most methods consist of a loss and an optimizer; `gradient_method` makes their `update`.
A method may also train several networks at once: its parameters are any pytree, and it
exports any number of networks. The update need not be a gradient step: federated
averaging is a method whose batch holds the clients of a round.
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
  """Training method as a set of pure functions.

  Attributes:
    init: `(key, images) -> state`. `images` is an example batch; only its shape is
      read.
    update: `(state, batch, constants) -> (state, metrics)`. It runs on one device,
      which holds some rows of the batch; collectives over `axis_name` make state and
      metrics equal on all devices. `batch` is a batch of the data: for images, the
      arrays "image", "label" and "mask".
    export: `state -> {name: network}`, the networks to evaluate and to keep.
    constants: Arrays that `update` reads and never writes, such as a frozen teacher.
      They are arguments of `update`: as closed-over arrays they would be compiled into
      the program, as part of the state they would be saved with every checkpoint.
    observe: Diagnostics, computed now and then: `(state, batch, constants) -> metrics`,
      the metrics that `_diagnostics` describes. It updates nothing. None if the method
      has no diagnostics.
    check: `(images, num_classes)` raises ValueError if networks, taps or heads do not
      fit the data. `images` is an example batch or its shape. None if there is nothing
      to check.
    teacher: The frozen teacher, if the method reads nothing of it but its outputs on
      the images of the batch. These outputs can be computed beforehand and be part of
      the batch.
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
    step: Number of updates so far.
    key: Random key of the run; `update` folds in the step.
    params: Parameters that the optimizer updates, of one network or several.
    collections: All other variables, such as `batch_stats`.
    opt_state: State of the optimizer.
  """

  step: Int[Array, ""]
  key: Key[Array, ""]
  params: PyTree
  collections: PyTree
  opt_state: optax.OptState


class LossFunction(Protocol):
  """Loss of the global batch, with updated collections and metrics."""

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
  """Make a method from a loss and an optimizer.

  Args:
    init_variables: `(key, images) -> variables`. The collection "params" is trained;
      `loss` updates the other collections.
    loss: The loss, differentiated with respect to "params" only. Micro-batches need a
      `FeatureLoss`: features of each row, and the loss as a function of them.
    optimizer: Optimizer of "params". Use `PerTree` if "params" holds more than the
      parameters of one network.
    export: `variables -> {name: network}`, the networks to evaluate and to keep.
    constants: Arrays that `loss` reads and never writes; see `Method`.
    compare: `(variables, batch, constants, key) -> metrics`, further diagnostics.
    check: Check that the method fits the data; see `Method`.
    micro_batches: Number of parts in which each device computes the features of its
      rows, one part after another, so that only the activations of one part are in
      memory. Loss and gradient are those of the whole batch, at the cost of a second
      forward pass. BatchNorm normalises by the statistics of a part and updates its
      running averages once per part; dropout masks differ from those of one part.
    axis_name: Name of the mapped axis over which the batch is split. None if one
      device has the whole batch.

  Raises:
    TypeError: If `micro_batches` is above 1 and `loss` is not a `FeatureLoss`.
    ValueError: If `micro_batches` is not a positive integer.
  """
  loss = _in_micro_batches(loss, micro_batches)

  def init(key, images):
    variables = dict(init_variables(key, images))
    params = variables.pop("params")
    # Compiled as one program: run eagerly, each array shape would compile its own.
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
      "loss: expected a FeatureLoss(features, loss), which micro_batches above 1 "
      f"needs, got {type(loss).__name__}"
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
  """Convert the leaves to arrays; NumPy arrays stay on the host."""
  return jax.tree.map(
    lambda leaf: leaf if isinstance(leaf, np.ndarray) else jnp.asarray(leaf), tree
  )


def of_wrapped(method: Method) -> Callable[[PyTree, Batch, PyTree], Metrics] | None:
  """Adapt `observe` to a wrapper whose state holds the inner state as `trained`."""
  observe = method.observe
  if observe is None:
    return None
  return lambda state, batch, constants: observe(state.trained, batch, constants)


def also_checked(method: Method, check: _heads.Check) -> Method:
  """Add a check to a method; it runs before the method's own check."""
  others = method.check

  def both(images, num_classes):
    check(images, num_classes)
    if others is not None:
      others(images, num_classes)

  return method._replace(check=both)


def _mean_over(axis_name, tree):
  """Mean over the devices; the maximum of integers, which are equal on all devices."""
  if axis_name is None:
    return tree

  def over_devices(leaf):
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return (lax.pmean if floating else lax.pmax)(leaf, axis_name)

  return jax.tree.map(over_devices, tree)


def weighted_loss(
  terms: Mapping[str, Float[Array, ""]], weights: Mapping[str, ArrayLike]
) -> tuple[Float[Array, ""], Metrics]:
  """Weighted sum of loss terms, with terms and weights as metrics.

  Args:
    terms: Loss terms by name.
    weights: Weight of each term, by name.

  Returns:
    `(loss, metrics)`. The metrics are `loss/NAME`, the term before weighting, and
    `weight/NAME`.

  Raises:
    ValueError: If there is not exactly one weight per term.
  """
  current = {name: jnp.asarray(weight, jnp.float32) for name, weight in weights.items()}
  metrics = {f"loss/{name}": value for name, value in terms.items()}
  metrics |= {f"weight/{name}": weight for name, weight in current.items()}
  return losses.weighted_sum(terms, current), metrics


def at_step(value: optax.Schedule | float, step: Int[Array, ""]) -> Float[Array, ""]:
  """Value at a step of a schedule or of a constant number."""
  return jnp.asarray(value(step) if callable(value) else value, jnp.float32)


def check_not_negative(name: str, value: optax.Schedule | float) -> None:
  """Raise ValueError unless a number is finite and 0 or above; schedules pass."""
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
  """Apply a network in training mode: `(logits, taps, updated collections)`.

  All collections but "params" may be updated. Dropout uses `key`.
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

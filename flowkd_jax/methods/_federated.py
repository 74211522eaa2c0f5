"""Federated averaging, FedProx and FedGen; an update is a communication round.

In a round, each client trains the global network on its own examples by plain SGD. The
server averages the resulting parameters (FedAvg: McMahan et al., "Communication-
Efficient Learning of Deep Networks from Decentralized Data", 2017):

    w <- sum_k (n_k / sum_j n_j) w_k,    w_k by SGD on L_k = CE(f(x), y) from w

FedProx (Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020)
adds `mu / 2 |w_k - w|^2` to every `L_k`. FedGen (Zhu, Hong, Zhou, ICML 2021) trains a
generator of latents on the clients' classifiers and sends it to the clients; see
`_latent_generator`.

The first axis of the batch is the client. Clients are split over the devices; those of
a device run in parallel by `vmap`.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax._numerics import label_rule
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _method
from flowkd_jax.methods import _optimizers
from flowkd_jax.methods._latent_generator import FedGen
from flowkd_jax.methods._latent_generator import Generator
from flowkd_jax.methods._latent_generator import GeneratorOptions
from flowkd_jax.parallel import gather_rows
from flowkd_jax.parallel import global_mean
from flowkd_jax.parallel import global_sum


@flax.struct.dataclass
class FederatedState:
  """State of the server.

  Attributes:
    step: Number of rounds so far.
    key: Random key of the run; `update` folds in the round.
    params: Parameters of the global network.
    generator: Parameters of FedGen's generator, if there is one.
    opt_state: State of the generator's optimizer.
  """

  step: Int[Array, ""]
  key: Key[Array, ""]
  params: _method.PyTree
  generator: _method.PyTree = ()
  opt_state: _method.PyTree = ()


class _Sent(NamedTuple):
  """Arrays that the server sends to the clients of a round."""

  params: _method.PyTree
  learning_rate: Float[Array, ""]
  generator: Generator | None


def federated_averaging(
  model: capture.AnyModel,
  learning_rate: optax.Schedule | float,
  *,
  proximal_weight: float = 0.0,
  generator: GeneratorOptions | None = None,
  axis_name: str | None = "batch",
) -> _method.Method:
  """FedAvg; FedProx if `proximal_weight` is above 0; FedGen if `generator` is given.

  Differs from the code published with FedGen in three ways. Networks have no batch
  statistics. In the published code these stay with the clients and are never averaged.
  The latent term is a mean over latents, so it does not grow with their number. Clients
  draw the labels of latents from all classes.

  The random numbers of a client depend on the run's key, the round and the client's
  number, not on the device.

  `update` expects batches of `data.FederatedBatches`.

  Args:
    model: Network whose only variables are parameters. FedGen needs a network with a
      latent and a classifier on it, such as `models.LatentCNN`.
    learning_rate: Learning rate of the clients' SGD, a number or a schedule of the
      round.
    proximal_weight: Weight `mu` of FedProx.
    generator: Options of FedGen's generator. None for FedAvg and FedProx.
    axis_name: Name of the mapped axis over which the clients are split, or None.

  Raises:
    ValueError: If a weight is negative; in `init`, if the network has variables other
      than parameters.
    TypeError: If `generator` is given and the network has no latent.
  """
  _method.check_not_negative("proximal_weight", proximal_weight)
  fedgen = None if generator is None else FedGen(model, generator)

  def init(key, images):
    variables = capture.init(model, key, images)
    _check_parameters_only(variables)
    generator_params, opt_state = (), ()
    if fedgen is not None:
      generator_params = fedgen.init(jax.random.fold_in(key, 2))
      opt_state = _optimizers.initial_state(fedgen.options.optimizer, generator_params)
    return FederatedState(
      step=jnp.zeros((), jnp.int32),
      key=jax.random.fold_in(key, 1),
      params=variables["params"],
      generator=generator_params,
      opt_state=opt_state,
    )

  def client_loss(params, sent, minibatch, key):
    keys = jax.random.split(key)
    logits, _, _ = _method.forward(model, {"params": params}, minibatch, key=keys[0])
    labels, mask = minibatch["label"], minibatch["mask"]
    value = losses.cross_entropy(logits, labels, mask=mask)
    if proximal_weight:
      gap = jax.tree.map(jnp.subtract, params, sent.params)
      value += proximal_weight / 2 * optax.tree.norm(gap, squared=True)
    if fedgen is not None:
      value += fedgen.client_terms(
        sent.generator, params["classifier"], logits, minibatch, keys[1]
      )
    return value

  def update(state, batch, constants):
    del constants
    client_key, server_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(client_key, batch["client"])
    sent = _Sent(
      state.params,
      _method.at_step(learning_rate, state.step),
      None
      if fedgen is None
      else fedgen.sent(state.generator, state.step, state.opt_state),
    )
    minibatches = {name: batch[name] for name in ("image", "label", "mask")}
    local, values = jax.vmap(functools.partial(_sgd, client_loss, sent))(
      minibatches, keys
    )
    loss = global_mean(values.mean(axis=1), None, axis_name)
    metrics = {"loss": loss, "learning_rate": sent.learning_rate}
    if fedgen is not None:
      heads = jax.tree.map(lambda x: gather_rows(x, axis_name), local["classifier"])
      counts = gather_rows(_label_counts(batch, fedgen.num_classes), axis_name)
      params, opt_state, more = fedgen.train(
        state.generator, state.opt_state, heads, counts, server_key
      )
      state = state.replace(generator=params, opt_state=opt_state)
      metrics |= more
    params = _average(local, batch["size"], axis_name)
    return state.replace(step=state.step + 1, params=params), metrics

  def export(state):
    return {"network": _method.Network(model, {"params": state.params})}

  check = _heads.classifier_fits("model", model, None)
  return _method.Method(init, update, export, check=check, axis_name=axis_name)


def _sgd(loss, sent, minibatches, key):
  """Parameters of a client after all its minibatches, and the loss of each."""

  def step(params, inputs):
    value, gradients = jax.value_and_grad(loss)(params, sent, *inputs)
    params = jax.tree.map(lambda p, g: p - sent.learning_rate * g, params, gradients)
    return params, value

  keys = jax.random.split(key, minibatches["label"].shape[0])
  return lax.scan(step, sent.params, (minibatches, keys))


def _average(local, sizes, axis_name):
  """Mean of the clients' parameters, weighted by their numbers of examples."""
  sizes = sizes.astype(jnp.float32)
  shares = sizes / global_sum(sizes.sum(), axis_name)

  def average(x):
    rows = shares.reshape(-1, *(1,) * (x.ndim - 1)) * x
    return global_sum(rows.sum(axis=0), axis_name)

  return jax.tree.map(average, local)


def _label_counts(batch, num_classes):
  """Number of examples of each label that each client drew, `[clients, classes]`."""
  mask = batch["mask"]
  read = label_rule.read_labels(
    batch["label"], num_classes, shape=mask.shape, mask=mask, name="label"
  )
  return read.one_hot(num_classes).sum(axis=(1, 2))


def _check_parameters_only(variables):
  others = sorted(set(variables) - {"params"})
  if others:
    raise ValueError(
      "model: expected a network whose only variables are parameters, got one with "
      f"{', '.join(others)}: statistics of clients whose labels differ cannot be "
      "averaged. Use a network without batch normalisation, such as latent_cnn"
    )

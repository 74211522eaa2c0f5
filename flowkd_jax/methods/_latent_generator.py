"""FedGen's generator: data-free distillation of the clients' knowledge.

FedGen adds this generator to federated averaging (Zhu, Hong, Zhou, "Data-Free Knowledge
Distillation for Heterogeneous Federated Learning", ICML 2021,
https://arxiv.org/abs/2105.10056). From a label y and noise e, the generator G makes a
latent that the clients' classifiers h_k should assign to y. Clients with more examples
of y have a larger weight. Different noise should give different latents:

    L_G = sum_k mean_b w_k(y_b) CE(h_k(G(y_b, e_b)), y_b) + eta L_div
    L_div = exp(-mean_ij (mean_d |G_i - G_j| mean_d (e_i - e_j)^2))

A client, which may lack some labels, learns from the generator and its own examples:

    L_k = CE(f(x), y) + a(round) mean_b CE(h(G(y_b, e_b)), y_b),   y_b uniform
"""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key

from flowkd_jax import losses
from flowkd_jax import models
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import label_rule
from flowkd_jax.methods import _method
from flowkd_jax.methods import _optimizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
  """Options of FedGen's generator. Defaults are those of the published code.

  Attributes:
    optimizer: Optimizer of the generator, on the server.
    latent_weight: Weight `a` of latents in a client's loss, a number or a schedule of
      the round. It is 0 in round 0, when the generator is untrained.
    kl_weight: Weight of a further client term, a number or a schedule of the round, 0
      in round 0: `KL(stop_gradient(softmax(h(G(y, e)))), softmax(f(x)))`. The term
      pulls the predictions on an example towards the predictions on a latent of the
      same label. The published code has this term, with the weight `latent_weight`; the
      paper does not. If the target is nearly one-hot, the term acts as additional
      cross-entropy on the labels, so tune the learning rate separately with and without
      it.
    steps: Number of updates of the generator in a round. With 0 it stays untrained;
      this is the control experiment.
    batch_size: Number of latents in an update of the generator and in a client's step.
    noise: Width of the noise, which is uniform in [0, 1).
    hidden: Width of the generator's hidden layer.
    diversity_weight: Weight `eta` of the diversity loss.
  """

  optimizer: optax.GradientTransformation
  latent_weight: optax.Schedule | float
  kl_weight: optax.Schedule | float = 0.0
  steps: int = 50
  batch_size: int = 32
  noise: int = 32
  hidden: int = 256
  diversity_weight: float = 1.0

  def __post_init__(self):
    for name in ("batch_size", "noise", "hidden"):
      checks.check_count(name, getattr(self, name))
    for name in ("latent_weight", "kl_weight", "steps", "diversity_weight"):
      _method.check_not_negative(name, getattr(self, name))


class Generator(NamedTuple):
  """Generator and weights that the server sends to the clients with the network.

  Attributes:
    params: Parameters of the generator.
    latent_weight: Value of `latent_weight` in this round.
    kl_weight: Value of `kl_weight` in this round.
  """

  params: _method.PyTree
  latent_weight: Float[Array, ""]
  kl_weight: Float[Array, ""]


class FedGen:
  """Client terms and server training of FedGen's generator.

  In all methods, `params` are the parameters of the generator, and `head` those of the
  classifier in a client's network.
  """

  def __init__(self, model: Any, options: GeneratorOptions):
    """Raise TypeError unless the network has a latent and a classifier on it."""
    if not (hasattr(model, "latent") and hasattr(model, "classify")):
      raise TypeError(
        "model: FedGen needs a network with a latent and a classifier of it, such as "
        f"models.LatentCNN, got {type(model).__name__}"
      )
    self.model, self.options = model, options
    self.num_classes: int = model.num_classes
    self.generator = models.LatentGenerator(
      latent=model.latent, num_classes=model.num_classes, hidden=options.hidden
    )

  def init(self, key: Key[Array, ""]) -> _method.PyTree:
    """Fresh parameters of the generator."""
    noise, labels = jnp.zeros((1, self.options.noise)), jnp.zeros(1, jnp.int32)
    return self.generator.init(key, noise, labels)["params"]

  def generate(
    self, params: _method.PyTree, labels: Int[Array, " batch"], key: Key[Array, ""]
  ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch noise"]]:
    """Generate latents for the labels; also return the noise used."""
    noise = jax.random.uniform(key, (len(labels), self.options.noise))
    latents: Any = self.generator.apply({"params": params}, noise, labels)
    return latents, noise

  def classify(
    self, head: _method.PyTree, latents: Float[Array, "batch latent"]
  ) -> Float[Array, "batch classes"]:
    """Logits of a client's classifier on latents."""
    variables = {"params": {"classifier": head}}
    return self.model.apply(variables, latents, method="classify")

  def sent(
    self, params: _method.PyTree, step: Int[Array, ""], opt_state: optax.OptState = ()
  ) -> Generator:
    """Message to the clients of a round. In round 0 its weights are 0.

    Args:
      params: Parameters of the generator.
      step: Number of the round, from 0.
      opt_state: State of the generator's optimizer, which may hold the parameters to
        use.
    """
    params = _optimizers.evaluated(self.options.optimizer, opt_state, params)
    weights = self.options.latent_weight, self.options.kl_weight
    now = (jnp.where(step > 0, _method.at_step(weight, step), 0) for weight in weights)
    return Generator(params, *now)

  def client_terms(
    self,
    sent: Generator,
    head: _method.PyTree,
    logits: Float[Array, "batch classes"],
    minibatch: _method.Batch,
    key: Key[Array, ""],
  ) -> Float[Array, ""]:
    """Loss terms that a client adds on a minibatch with the given logits."""
    keys = jax.random.split(key)
    value = sent.latent_weight * self._latent_term(sent.params, head, keys[0])
    if callable(self.options.kl_weight) or self.options.kl_weight:
      mask = minibatch["mask"]
      read = label_rule.read_labels(
        minibatch["label"], self.num_classes, shape=mask.shape, mask=mask, name="label"
      )
      latents, _ = self.generate(sent.params, read.classes, keys[1])
      target = read.invalidate(lax.stop_gradient(self.classify(head, latents)))
      value += sent.kl_weight * losses.knowledge_distillation(
        logits, target, temperature=1.0, mask=read.labelled
      )
    return value

  def _latent_term(self, params, head, key):
    """Cross-entropy of a classifier on latents of uniformly drawn labels."""
    label_key, noise_key = jax.random.split(key)
    size = (self.options.batch_size,)
    labels = jax.random.randint(label_key, size, 0, self.num_classes)
    latents, _ = self.generate(params, labels, noise_key)
    return losses.cross_entropy(self.classify(head, latents), labels)

  def train(
    self,
    params: _method.PyTree,
    opt_state: optax.OptState,
    heads: _method.PyTree,
    counts: Float[Array, "clients classes"],
    key: Key[Array, ""],
  ) -> tuple[_method.PyTree, optax.OptState, _method.Metrics]:
    """Train the generator in a round: `(params, opt_state, metrics)`.

    Args:
      params: Parameters of the generator.
      opt_state: State of the generator's optimizer.
      heads: Classifier parameters of all clients, stacked along the first axis.
      counts: Number of examples of each label that each client drew.
      key: Random key of the round.
    """
    optimizer = self.options.optimizer

    def step(carry, step_key):
      params, opt_state = carry

      def objective(params):
        return self._loss(params, heads, counts, step_key)

      (value, parts), gradients = jax.value_and_grad(objective, has_aux=True)(params)
      updates, opt_state = _optimizers.update(
        optimizer,
        gradients,
        opt_state,
        params,
        value=value,
        value_fn=lambda params: objective(params)[0],
      )
      return (optax.apply_updates(params, updates), opt_state), parts

    if not self.options.steps:
      return params, opt_state, {}
    keys = jax.random.split(key, self.options.steps)
    (params, opt_state), parts = lax.scan(step, (params, opt_state), keys)
    return params, opt_state, {name: value.mean() for name, value in parts.items()}

  def _loss(self, params, heads, counts, key):
    """L_G and its terms, on labels drawn from those that any client has seen."""
    label_key, noise_key = jax.random.split(key)
    seen = jnp.where(counts.sum(axis=0) > 0, 0.0, -jnp.inf)
    size = (self.options.batch_size,)
    labels = jax.random.categorical(label_key, seen, shape=size)
    latents, noise = self.generate(params, labels, noise_key)
    logits = jax.vmap(self.classify, (0, None))(heads, latents)
    parts = {
      "generator/labels": ensemble_cross_entropy(logits, labels, counts),
      "generator/diversity": diversity_loss(latents, noise),
    }
    spread = self.options.diversity_weight * parts["generator/diversity"]
    return parts["generator/labels"] + spread, parts


def ensemble_cross_entropy(
  logits: Float[Array, "clients batch classes"],
  labels: Int[Array, " batch"],
  counts: Float[Array, "clients classes"],
) -> Float[Array, ""]:
  """Cross-entropy over all clients, weighted by their shares of each label.

  Args:
    logits: Logits of each client's classifier on the same latents.
    labels: Labels of the latents.
    counts: Number of examples of each label that each client drew. One is added to each
      count, as in the published code, so that no weight is 0.
  """
  weights = (counts + 1) / (counts + 1).sum(axis=0, keepdims=True)
  read = label_rule.read_labels(labels, logits.shape[2], shape=logits.shape[1:2])
  logs = jax.nn.log_softmax(jnp.where(read.labelled[None, :, None], logits, 0))
  rows = -jnp.take_along_axis(logs, read.classes[None, :, None], axis=2)[..., 0]
  rows = read.invalidate((weights[:, read.classes] * rows).sum(axis=0))
  return parallel.global_mean(rows, read.labelled, None)


def diversity_loss(
  latents: Float[Array, "batch latent"], noise: Float[Array, "batch noise"]
) -> Float[Array, ""]:
  """Diversity loss `L_div`: 1 if all latents are equal, below 1 if they differ."""
  gaps = jnp.abs(latents[:, None] - latents[None]).mean(axis=2)
  distances = jnp.square(noise[:, None] - noise[None]).mean(axis=2)
  return jnp.exp(-(gaps * distances).mean())

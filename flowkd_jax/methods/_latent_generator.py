"""FedGen's generator: what the clients of a federation know, distilled without data.

The part of `federated` that FedGen adds to federated averaging (Zhu, Hong, Zhou,
"Data-Free Knowledge Distillation for Heterogeneous Federated Learning", ICML 2021,
https://arxiv.org/abs/2105.10056). Of labels y and noise e, the generator G makes
latents which the classifiers h_k of the clients take for y, those the more that saw
more examples of y, and which differ where the noise does:

    L_G = sum_k mean_b w_k(y_b) CE(h_k(G(y_b, e_b)), y_b) + eta L_div
    L_div = exp(-mean_ij (mean_d |G_i - G_j| mean_d (e_i - e_j)^2))

and a client, which lacks some labels, learns from it beside its own examples:

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
  """Options of FedGen's generator; defaults as in the published code.

  Attributes:
    optimizer: Updates the generator, on the server.
    latent_weight: The weight `a` of latents in a client's loss, a number or a schedule
      of the round; in round 0 it is 0, as the generator is untrained then.
    kl_weight: Weight of a further term, a number or a schedule of the round, 0 in round
      0 too: `KL(stop_gradient(softmax(h(G(y, e)))), softmax(f(x)))`, which draws what
      the network makes of an example to what its classifier makes of a latent of the
      same label. It stands in the published code, with the weight of `latent_weight`,
      but not in the paper. As long as the target is nearly one-hot, it is so many more
      cross-entropies on the labels: compare with it only at learning rates tuned with
      and without.
    steps: Updates of the generator in a round; 0 leaves it as it was initialised: the
      control experiment.
    batch_size: Latents of an update, and of a client's step.
    noise: Width of the noise, which is uniform in [0, 1).
    hidden: Width of the generator's hidden layer.
    diversity_weight: eta.
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
  """Generator that the server sends to clients beside the network.

  Attributes:
    params: Of the generator.
    latent_weight: That of this round.
    kl_weight: That of this round.
  """

  params: _method.PyTree
  latent_weight: Float[Array, ""]
  kl_weight: Float[Array, ""]


class FedGen:
  """Learning of clients from the generator, and training of it on the server.

  `params` are the generator's parameters throughout, a `head` those of the classifier
  of a client's network.
  """

  def __init__(self, model: Any, options: GeneratorOptions):
    """TypeError unless the network has a latent and a classifier of it."""
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
    """Latents of the labels, and the noise in them."""
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
    """Message to the clients of a round; in the first, with weights of 0.

    Args:
      params: Of the generator.
      step: The round.
      opt_state: Of the generator's optimizer, which may hold the parameters to use.
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
    """Terms that a client adds to its loss of a minibatch, whose logits are given."""
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
    """Cross-entropy of a classifier on latents of labels drawn uniformly."""
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
    """A round's updates of the generator: `(params, opt_state, metrics)`.

    Args:
      params: Of the generator.
      opt_state: Of its optimizer.
      heads: Classifiers of the clients, their leaves stacked.
      counts: Examples of each label that each client drew.
      key: Randomness of the round.
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
    """L_G and its terms; labels are drawn from those that some client drew."""
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
  """Cross-entropy of all clients, each by its share of the examples of the label.

  Args:
    logits: Of the same latents by the classifier of each client.
    labels: What the latents were generated of.
    counts: Examples of each label that each client drew. One is added to each, as in
      the published code, so that no weight is 0.
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
  """L_div: 1 if all latents are alike, less the more they differ where noise does."""
  gaps = jnp.abs(latents[:, None] - latents[None]).mean(axis=2)
  distances = jnp.square(noise[:, None] - noise[None]).mean(axis=2)
  return jnp.exp(-(gaps * distances).mean())

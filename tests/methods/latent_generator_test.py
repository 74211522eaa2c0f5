"""FedGen's generator: its loss by hand, what clients learn from it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.methods import _latent_generator

pytestmark = pytest.mark.optimizer

MODEL = models.LatentCNN(width=3, latent=5, num_classes=3)


def fedgen_of(**options):
  defaults = {"optimizer": optax.sgd(0.1), "latent_weight": 2.0, "hidden": 6}
  options = methods.GeneratorOptions(**{**defaults, "noise": 4, **options})
  return _latent_generator.FedGen(MODEL, options)


def heads_of(clients, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "kernel": jnp.asarray(rng.normal(size=(clients, 5, 3)), jnp.float32),
    "bias": jnp.asarray(rng.normal(size=(clients, 3)), jnp.float32),
  }


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def without_noise(params):
  """A generator whose latents depend on the label alone."""
  kernel = params["hidden"]["kernel"].at[:4].set(0)
  return {**params, "hidden": {**params["hidden"], "kernel": kernel}}


@pytest.mark.slow
def test_ensemble_cross_entropy_weighs_clients_by_their_examples_of_the_label():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 4, 3)).astype(np.float32)
  labels, counts = np.array([0, 2, 2, 1]), np.array([[3.0, 0, 7], [1, 0, 0]])
  expected = 0
  for k in range(2):
    rows = [
      (counts[k, y] + 1) / (counts[:, y] + 1).sum() * -log_softmax(logits[k, b])[y]
      for b, y in enumerate(labels)
    ]
    expected += np.mean(rows)
  actual = _latent_generator.ensemble_cross_entropy(
    jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(counts, jnp.float32)
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_diversity_loss_is_that_by_hand():
  rng = np.random.default_rng(0)
  latents, noise = rng.normal(size=(6, 5)), rng.uniform(size=(6, 4))
  products = [
    np.abs(latents[i] - latents[j]).mean() * ((noise[i] - noise[j]) ** 2).mean()
    for i in range(6)
    for j in range(6)
  ]
  arrays = jnp.asarray(latents, jnp.float32), jnp.asarray(noise, jnp.float32)
  actual = _latent_generator.diversity_loss(*arrays)
  np.testing.assert_allclose(actual, np.exp(-np.mean(products)), rtol=1e-5)
  collapsed = _latent_generator.diversity_loss(jnp.ones((6, 5)), arrays[1])
  assert collapsed == 1


def test_latents_are_weighed_from_the_second_round_on():
  fedgen = fedgen_of(latent_weight=optax.exponential_decay(8.0, 1, 0.5), kl_weight=3.0)
  weights = [
    tuple(map(float, fedgen.sent({}, jnp.asarray(step, jnp.int32))[1:]))
    for step in range(3)
  ]
  assert weights == [(0, 0), (4, 3), (2, 3)]


@pytest.mark.slow
def test_clients_learn_that_latents_of_a_label_are_of_that_label():
  fedgen = fedgen_of(batch_size=20_000)
  params = without_noise(fedgen.init(jax.random.key(0)))
  labels = jnp.arange(3)
  latents, _ = fedgen.generate(params, labels, jax.random.key(1))
  head = jax.tree.map(lambda x: x[0], heads_of(1))
  logs = log_softmax(latents @ head["kernel"] + head["bias"][None])
  sent = fedgen.sent(params, jnp.ones((), jnp.int32))
  actual = fedgen.client_terms(sent, head, None, None, jax.random.key(2))
  # Labels are drawn, all equally often.
  np.testing.assert_allclose(actual, -2 * np.diag(logs).mean(), rtol=0.02)


@pytest.mark.slow
def test_kl_term_draws_examples_to_latents_of_their_label():
  fedgen = fedgen_of(latent_weight=0.0, kl_weight=3.0)
  params = without_noise(fedgen.init(jax.random.key(0)))
  head = jax.tree.map(lambda x: x[0], heads_of(1))
  logits = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
  labels, mask = jnp.array([2, 0, 1, 1]), jnp.array([True, True, True, False])
  latents, _ = fedgen.generate(params, labels, jax.random.key(1))
  target = log_softmax(latents @ head["kernel"] + head["bias"][None])
  rows = (np.exp(target) * (target - log_softmax(logits))).sum(1)
  sent = fedgen.sent(params, jnp.ones((), jnp.int32))

  def term(head, logits):
    batch = {"label": labels, "mask": mask}
    return fedgen.client_terms(sent, head, logits, batch, jax.random.key(2))

  np.testing.assert_allclose(term(head, logits), 3 * rows[:3].mean(), rtol=1e-4)
  to_head, to_logits = jax.grad(term, (0, 1))(head, logits)
  assert max(float(jnp.abs(leaf).max()) for leaf in to_head.values()) == 0
  np.testing.assert_allclose(
    to_logits[:3],
    (np.exp(log_softmax(logits)) - np.exp(target))[:3],  # 3 / 3 rows
    atol=1e-5,
  )


@pytest.mark.slow
def test_server_trains_on_labels_that_were_drawn_only():
  fedgen = fedgen_of(steps=5)
  params = fedgen.init(jax.random.key(0))
  counts = jnp.array([[4.0, 0, 1], [0.0, 0, 2]])
  opt_state = fedgen.options.optimizer.init(params)
  trained, _, metrics = fedgen.train(
    params, opt_state, heads_of(2), counts, jax.random.key(1)
  )
  moved = np.abs(trained["hidden"]["kernel"] - params["hidden"]["kernel"]).max(1)
  assert moved[4 + 1] == 0
  assert (moved[[4, 4 + 2]] > 0).all()
  assert set(metrics) == {"generator/labels", "generator/diversity"}


@pytest.mark.slow
def test_trained_generator_makes_what_the_clients_recognise():
  fedgen = fedgen_of(optimizer=optax.adam(0.05), steps=150)
  params = fedgen.init(jax.random.key(0))
  heads = jax.tree.map(lambda x: jnp.concatenate([x, x]), heads_of(1))
  trained, _, _ = jax.jit(fedgen.train)(
    params,
    fedgen.options.optimizer.init(params),
    heads,
    jnp.ones((2, 3)),
    jax.random.key(1),
  )
  labels = jnp.arange(60) % 3
  latents, noise = fedgen.generate(trained, labels, jax.random.key(2))
  logits = fedgen.classify(jax.tree.map(lambda x: x[0], heads), latents)
  assert (logits.argmax(1) == labels).mean() > 0.95
  assert 0 <= noise.min() <= noise.max() < 1
  # Latents of one label differ.
  assert latents[labels == 0].std(0).max() > 0.05

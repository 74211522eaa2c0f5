"""Federated averaging, FedProx, FedGen: rounds by hand, devices, refusals."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import train

pytestmark = pytest.mark.optimizer

RATE = 0.3
IMAGES = jnp.zeros((2, 2, 2, 1))


class Linear(nn.Module):
  """A latent and a classifier, both linear, to differentiate by hand."""

  latent = 4
  num_classes = 3
  taps = ()

  def setup(self):
    self.encoder = nn.Dense(self.latent)
    self.classifier = nn.Dense(self.num_classes)

  def __call__(self, images, train=False, mask=None):
    return self.classify(self.encoder(images.reshape(len(images), -1)))

  def classify(self, latents):
    return self.classifier(latents)


def generator(**options):
  defaults = {"optimizer": optax.sgd(0.1), "latent_weight": 2.0, "hidden": 6}
  return methods.GeneratorOptions(**{**defaults, "steps": 3, "noise": 2, **options})


def round_of(clients=2, steps=2, rows=4, seed=0):
  """A round; the last row of client 0 is padding."""
  rng = np.random.default_rng(seed)
  mask = np.ones((clients, steps, rows), bool)
  mask[0, :, -1] = False
  return {
    "image": jnp.asarray(rng.normal(size=(clients, steps, rows, 2, 2, 1)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 3, (clients, steps, rows)), jnp.int32),
    "mask": jnp.asarray(mask),
    "client": jnp.asarray(rng.permutation(20)[:clients], jnp.int32),
    "size": jnp.asarray(rng.integers(3, 9, clients), jnp.int32),
  }


def make(axis_name=None, **options):
  return methods.federated_averaging(Linear(), RATE, axis_name=axis_name, **options)


def after(method, *rounds, state=None):
  """State and metrics after some rounds."""
  state = method.init(jax.random.key(0), IMAGES) if state is None else state
  metrics = {}
  for batch in rounds:
    state, metrics = jax.jit(method.update)(state, batch, method.constants)
  return state, metrics


def largest_gap(one, other):
  gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)
  return max(jax.tree.leaves(gaps))


# NumPy -----------------------------------------------------------------------


def softmax(logits):
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def as_numpy(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def gradients_of(params, images, labels, mask):
  """Mean cross-entropy of the rows that are no padding, and its gradients."""
  x = images.reshape(len(images), -1)
  z = x @ params["encoder"]["kernel"] + params["encoder"]["bias"]
  p = softmax(z @ params["classifier"]["kernel"] + params["classifier"]["bias"])
  value = -np.log(p[np.arange(len(p)), labels])[mask].mean()
  d = (p - np.eye(3)[labels]) * mask[:, None] / mask.sum()
  dz = d @ params["classifier"]["kernel"].T
  return value, {
    "encoder": {"kernel": x.T @ dz, "bias": dz.sum(0)},
    "classifier": {"kernel": z.T @ d, "bias": d.sum(0)},
  }


def round_by_hand(start, batch, mu=0.0):
  """Parameters of every client, their average, and the mean loss."""
  local, values = [], []
  arrays = [as_numpy(batch["image"]), *map(np.asarray, (batch["label"], batch["mask"]))]
  for client in zip(*arrays, strict=True):
    params = start
    for minibatch in zip(*client, strict=True):
      value, gradients = gradients_of(params, *minibatch)
      gap = jax.tree.map(np.subtract, params, start)
      square = sum((leaf**2).sum() for leaf in jax.tree.leaves(gap))
      values.append(value + mu / 2 * square)
      params = jax.tree.map(
        lambda p, g, d: p - RATE * (g + mu * d), params, gradients, gap
      )
    local.append(params)
  shares = np.asarray(batch["size"]) / np.asarray(batch["size"]).sum()
  average = jax.tree.map(lambda *leaves: sum(map(np.multiply, shares, leaves)), *local)
  return average, np.mean(values)


# Rounds ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_round_of_two_clients_is_that_by_hand(mu):
  method, batch = make(proximal_weight=mu), round_of()
  start, _ = after(method)
  state, metrics = after(method, batch)
  expected, loss = round_by_hand(as_numpy(start.params), batch, mu)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, expected
  )
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  assert int(state.step) == 1


@pytest.mark.slow
def test_proximal_weight_keeps_clients_near_the_global_network():
  batch = round_of(steps=5)
  start, _ = after(make())
  moved = [
    largest_gap(after(make(proximal_weight=mu), batch)[0].params, start.params)
    for mu in (0.0, 1.0)
  ]
  assert moved[1] < 0.9 * moved[0]


@pytest.mark.slow
def test_learning_rate_is_a_schedule_of_the_round():
  schedule = optax.exponential_decay(0.4, 1, 0.5)
  method = methods.federated_averaging(Linear(), schedule, axis_name=None)
  batch, rates, state = round_of(), [], None
  for _ in range(3):
    state, metrics = after(method, batch, state=state)
    rates.append(float(metrics["learning_rate"]))
  np.testing.assert_allclose(rates, [0.4, 0.2, 0.1], rtol=1e-6)


@pytest.mark.slow
def test_export_is_the_global_network():
  method = make(generator=generator())
  state, _ = after(method, round_of())
  network = method.export(state)["network"]
  assert network.variables == {"params": state.params}
  assert network.model.apply(network.variables, IMAGES).shape == (2, 3)


# FedGen ----------------------------------------------------------------------


@pytest.mark.slow
def test_generator_changes_nothing_in_the_first_round_and_then_the_classifier():
  first, second = round_of(steps=1), round_of(steps=1, seed=1)
  plain, fedgen = make(), make(generator=generator())
  state, _ = after(plain, first)
  with_generator, _ = after(fedgen, first)
  assert largest_gap(state.params, with_generator.params) == 0
  state, _ = after(plain, second, state=state)
  with_generator, _ = after(fedgen, second, state=with_generator)
  gap = lambda part: largest_gap(state.params[part], with_generator.params[part])
  # In one local step latents reach the classifier alone.
  assert gap("encoder") < 1e-7
  assert gap("classifier") > 1e-2


@pytest.mark.slow
def test_kl_term_is_off_by_default_and_reaches_the_encoder():
  assert generator().kl_weight == 0
  rounds = round_of(steps=1), round_of(steps=1, seed=1)
  off, _ = after(make(generator=generator()), *rounds)
  on, _ = after(make(generator=generator(kl_weight=2.0)), *rounds)
  assert largest_gap(off.params["encoder"], on.params["encoder"]) > 1e-2


@pytest.mark.slow
def test_generator_is_left_as_it_was_with_no_steps():
  fedgen = make(generator=generator(steps=0))
  start, _ = after(fedgen)
  state, metrics = after(fedgen, round_of(), round_of(seed=1))
  assert largest_gap(state.generator, start.generator) == 0
  assert set(metrics) == {"loss", "learning_rate"}


@pytest.mark.slow
def test_clients_draw_by_their_number_whatever_their_place():
  fedgen = make(generator=generator(kl_weight=1.0))
  first, second = round_of(4), round_of(4, seed=1)
  turned = jax.tree.map(lambda x: x[::-1], second)
  expected, _ = after(fedgen, first, second)
  actual, _ = after(fedgen, first, turned)
  assert largest_gap(actual.params, expected.params) < 1e-6


@pytest.mark.slow
def test_training_reduces_the_losses():
  fedgen = make(generator=generator(optimizer=optax.adam(0.05), steps=20))
  batch = round_of(4, steps=4, rows=8)
  state, history = None, []
  for _ in range(12):
    state, metrics = after(fedgen, batch, state=state)
    history.append(metrics)
  assert history[-1]["generator/labels"] < 0.5 * history[0]["generator/labels"]
  assert history[-1]["generator/diversity"] < 1
  # From the second round on the loss has the latents' term, too.
  assert history[-1]["loss"] < 0.9 * history[1]["loss"]


@pytest.mark.eight_devices
@pytest.mark.slow
def test_one_device_eight_devices_and_plain_jit_agree():
  options = {"proximal_weight": 0.5, "generator": generator(kl_weight=1.0)}
  rounds = [round_of(8, seed=seed) for seed in range(2)]
  expected, metrics = after(make(**options), *rounds)
  method = make("batch", **options)
  for devices in (1, 8):
    update = jax.pmap(
      method.update,
      axis_name="batch",
      in_axes=(None, 0, None),
      out_axes=None,
      devices=jax.local_devices()[:devices],
    )
    state, measured = method.init(jax.random.key(0), IMAGES), {}
    for batch in rounds:
      split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)  # noqa: B023
      state, measured = update(state, split, ())
    pairs = (state.params, state.generator), (expected.params, expected.generator)
    assert largest_gap(*pairs) < 1e-5
    for name, value in metrics.items():
      np.testing.assert_allclose(measured[name], value, rtol=1e-5)


# The loop --------------------------------------------------------------------


@pytest.fixture
def rounds():
  """Two rounds an epoch of 8 of 10 clients, each of three kinds of digits."""
  split = data.load("digits", "train", limit=200)
  split = dataclasses.replace(
    split, labels=split.labels % 3, class_names=("a", "b", "c")
  )
  images = data.MemoryBatches(split, batch_size=8, seed=0, mean=(70,), std=(400,))
  clients = data.dirichlet_split(split.labels, 10, 0.5, seed=0, minimum=2)
  return data.FederatedBatches(
    images,
    clients=clients,
    clients_per_round=8,
    local_steps=3,
    minibatch_size=8,
    rounds_per_epoch=2,
  )


@pytest.mark.cpu("a GPU need not repeat an update to the bit")
@pytest.mark.slow
def test_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(rounds, tmp_path):
  method = make("batch", generator=generator())
  devices = jax.local_devices()[:2]

  def fit(**options):
    return train.fit(
      method,
      rounds,
      epochs=2,
      key=jax.random.key(0),
      options=train.FitOptions(devices=devices, **options),
    ).state

  expected = fit()
  with train.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(train.Interrupted, match="after step 1"):
      fit(checkpoints=checkpoints, should_stop=lambda: "SIGTERM")
    actual = fit(checkpoints=checkpoints)
  jax.tree.map(
    np.testing.assert_array_equal,
    (actual.params, actual.generator, actual.opt_state),
    (expected.params, expected.generator, expected.opt_state),
  )
  assert int(actual.step) == 4


# Refusals --------------------------------------------------------------------


@pytest.mark.slow
def test_networks_that_cannot_be_averaged_or_distilled_are_refused(network):
  method = methods.federated_averaging(network(), RATE)
  with pytest.raises(ValueError, match="only variables are parameters.*batch_stats"):
    method.init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  with pytest.raises(TypeError, match="needs a network with a latent.*, got CNN"):
    methods.federated_averaging(network(), RATE, generator=generator())


@pytest.mark.slow
def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="proximal_weight: expected 0 or above, got -1"):
    make(proximal_weight=-1.0)
  for name in ("latent_weight", "kl_weight", "steps", "diversity_weight"):
    with pytest.raises(ValueError, match=f"{name}: expected 0 or above, got -1"):
      generator(**{name: -1})
  for name in ("batch_size", "noise", "hidden"):
    with pytest.raises(ValueError, match=f"{name}: expected a number above 0, got 0"):
      generator(**{name: 0})

"""Nothing that the caller passed in is donated, by no method and no network."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import train
from tests.methods.contract_rows import CNN
from tests.methods.contract_rows import LATENT
from tests.methods.contract_rows import ROWS

pytestmark = pytest.mark.optimizer

IMAGES = jnp.zeros((2, 8, 8, 1))


@pytest.fixture
def few(split):
  """One step an epoch."""
  split = dataclasses.replace(split, images=split.images[:16], labels=split.labels[:16])
  return data.training_batches(split, batch_size=16, seed=0, mean=(128,), std=(64,))


@pytest.fixture
def rounds(few):
  return data.FederatedBatches(
    few,
    clients=[np.arange(i, 16, 8) for i in range(8)],
    clients_per_round=8,
    local_steps=1,
    minibatch_size=2,
  )


def _unchanged(kept, tree):
  before = jax.tree.leaves(kept)
  after = [np.asarray(_data(leaf)) for leaf in jax.tree.leaves(tree)]
  return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def _data(leaf):
  key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(leaf) if key else leaf


def _copy(tree):
  return jax.tree.map(lambda leaf: np.array(_data(leaf)), tree)


# All devices donate alike; the first is where the caller's arrays lie.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "devices"),
  [*((name, 2) for name in ROWS), ("supervised", 1), ("knowledge_distillation", 1)],
)
def test_fit_leaves_start_teacher_and_key_alive(name, devices, few, rounds):
  row = ROWS[name]
  given = capture.init(row.network, jax.random.key(1), IMAGES), jax.random.key(0)
  kept = _copy(given)
  method = row.make(optax.sgd(0.01), given[0])
  chosen = rounds if row.network is LATENT else few
  options = train.FitOptions(devices=jax.local_devices()[:devices])
  train.fit(method, chosen, epochs=1, key=given[1], options=options)
  assert _unchanged(kept, given)


@pytest.mark.slow
def test_second_fit_from_the_same_start_gives_the_same(few):
  start = capture.init(CNN, jax.random.key(1), IMAGES)
  method = methods.supervised(CNN, optax.adam(0.01), initial=start)
  one, other = (
    train.fit(method, few, epochs=1, key=jax.random.key(0)).state for _ in range(2)
  )
  jax.tree.map(np.testing.assert_array_equal, _copy(one), _copy(other))


@pytest.mark.slow
def test_fit_leaves_host_arrays_unchanged(few):
  start = jax.device_get(capture.init(CNN, jax.random.key(1), IMAGES))
  kept = jax.tree.map(np.copy, start)
  method = methods.supervised(CNN, optax.sgd(0.1), initial=start)
  train.fit(method, few, epochs=1, key=jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, start, kept)


class _NNX(nnx.Module):
  def __init__(self, rngs):
    self.dense = nnx.Linear(64, 3, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)

  def __call__(self, images):
    return self.dropout(self.dense(images.reshape(len(images), -1)))


class _Equinox(eqx.Module):
  dense: eqx.nn.Linear

  def __call__(self, image, key=None):
    return self.dense(image.reshape(-1))


@pytest.mark.slow
def test_modules_of_other_frameworks_stay_alive(few):
  module, other = (
    _NNX(nnx.Rngs(0)),
    _Equinox(eqx.nn.Linear(64, 3, key=jax.random.key(0))),
  )
  for model, variables in (capture.from_nnx(module), capture.from_equinox(other)):
    kept = _copy(variables)
    teacher = methods.Network(model, variables)
    method = methods.knowledge_distillation(model, teacher, optax.sgd(0.1))
    train.fit(method, few, epochs=1, key=jax.random.key(0))
    assert _unchanged(kept, variables)
  module.eval()
  assert np.isfinite(module(IMAGES)).all()
  assert np.isfinite(other(IMAGES[0])).all()


@pytest.mark.slow
def test_one_array_may_be_two_leaves_of_the_state(few):
  """Tied weights, and optimizers that keep the first parameters."""
  shared = jnp.ones(3)

  def loss(variables, batch, constants, *, step, key):
    params = variables["params"]
    return ((params["one"] - 2 * params["other"]) ** 2).sum(), ({}, {})

  method = methods.gradient_method(
    init_variables=lambda *_: {"params": {"one": shared, "other": shared}},
    loss=loss,
    optimizer=optax.sgd(0.1),
    export=lambda variables: {},
    axis_name="batch",
  )
  train.fit(method, few, epochs=2, key=jax.random.key(0))
  np.testing.assert_array_equal(shared, np.ones(3))


def test_replicate_shares_no_memory_with_its_argument():
  whole = train.replicate(jnp.arange(5.0))
  tree = {"one": whole, "same": whole, "key": jax.random.key(0)}
  copies = train.replicate(tree)
  jax.tree.map(lambda leaf: leaf.delete(), copies)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_hook_may_keep_what_it_is_given(few):
  kept = []
  options = train.FitOptions(on_epoch=lambda *given: kept.append(given[-1]) or {})
  method = methods.supervised(CNN, optax.sgd(0.1))
  train.fit(method, few, epochs=2, key=jax.random.key(0), options=options)
  assert [int(state.step) for state in kept] == [0, 1, 2]

"""Loss and gradient of a whole batch, with the activations of a part of it."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from tests.methods import parity_test

pytestmark = pytest.mark.optimizer


class _Network(nn.Module):
  """Two layers without BatchNorm."""

  width: int = 5
  rate: float = 0.0
  taps = ("hidden",)

  @nn.compact
  def __call__(self, images, train=False, mask=None):
    """Logits of three classes."""
    x = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
    x = nn.Dropout(self.rate, deterministic=not train)(x)
    self.sow("intermediates", "hidden", x)
    return nn.Dense(3)(x)


def _batch(rows, valid=None):
  keys = jax.random.split(jax.random.key(3), 2)
  return {
    "image": jax.random.normal(keys[0], (rows, 4, 4, 1)),
    "label": jax.random.randint(keys[1], (rows,), 0, 3),
    "mask": jnp.arange(rows) < (rows if valid is None else valid),
  }


def _distilled(number, *, rate=0.0, axis_name=None):
  """Similarities of all pairs, softened logits, labels, and a learnt map."""
  teacher = _Network(width=7)
  variables = capture.init(teacher, jax.random.key(7), jnp.zeros((2, 4, 4, 1)))

  def terms(student, teacher, batch, params):
    options = {"mask": batch["mask"], "axis_name": axis_name}
    sides = student.taps["hidden"], teacher.taps["hidden"]
    return {
      "pairs": losses.pkt(*sides, **options),
      "logits": losses.knowledge_distillation(
        student.logits, teacher.logits, **options
      ),
      "hint": losses.hint(*sides, params=params, **options),
    }

  return methods.distillation(
    _Network(rate=rate),
    methods.Network(teacher, variables),
    optax.sgd(0.1),
    terms=terms,
    weights={"pairs": 10.0, "logits": 1.0, "hint": 0.1},
    taps=(("hidden",), ("hidden",)),
    label_weight=0.5,
    params=methods.LossParams(
      lambda key, ours, theirs: losses.hint_init(key, ours["hidden"], theirs["hidden"])
    ),
    micro_batches=number,
    axis_name=axis_name,
  )


def _step(method, batch):
  state = method.init(jax.random.key(0), batch["image"])
  return jax.jit(method.update)(state, batch, method.constants)


def _assert_close(actual, expected, rtol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7),
    actual,
    expected,
  )


@pytest.mark.parametrize(("rows", "valid", "number"), [(16, 13, 2), (10, 10, 4)])
def test_step_of_micro_batches_is_that_of_the_whole_batch(rows, valid, number):
  batch = _batch(rows, valid)
  expected, expected_metrics = _step(_distilled(1), batch)
  state, metrics = _step(_distilled(number), batch)
  _assert_close(state.params, expected.params)
  _assert_close(metrics, expected_metrics, rtol=1e-5)


@pytest.mark.eight_devices
def test_micro_batches_on_several_devices_change_nothing():
  batch = _batch(16, 13)
  expected, _ = _step(_distilled(1), batch)
  method = _distilled(2, axis_name="batch")
  state = method.init(jax.random.key(0), batch["image"])
  update = jax.pmap(
    method.update,
    axis_name="batch",
    in_axes=(None, 0, None),
    out_axes=None,
    devices=jax.local_devices()[:2],
  )
  split = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), batch)
  state, _ = update(state, split, method.constants)
  _assert_close(state.params, expected.params)


def test_state_of_the_loss_terms_moves_once_a_step():
  def terms(student, teacher, batch, params, state):
    return {"hint": losses.hint(student.logits, teacher.logits)}, state + 1

  network = _Network()
  method = methods.distillation(
    network,
    methods.Network(
      network, capture.init(network, jax.random.key(1), jnp.zeros((2, 4, 4, 1)))
    ),
    optax.sgd(0.1),
    terms=terms,
    weights={"hint": 1.0},
    params=methods.LossParams(lambda *_: {}, state=lambda *_: jnp.zeros((), jnp.int32)),
    micro_batches=4,
    axis_name=None,
  )
  state, _ = _step(method, _batch(8))
  assert int(state.collections["loss_state"]) == 1


def _dropping(number):
  """A loss of all pairs of rows with dropout, by its features."""
  network = _Network(rate=0.5)

  def features(variables, batch, constants, *, key):
    del constants
    logits, _, updated = methods.forward(network, variables, batch, key=key)
    return logits, updated

  def loss(logits, variables, batch, *, step, key):
    del variables, step, key
    value = losses.similarity_preserving(logits, batch["image"].reshape(8, -1))
    return value, ({}, {})

  return features, methods.gradient_method(
    init_variables=lambda key, images: capture.init(network, key, images),
    loss=methods.FeatureLoss(features, loss),
    optimizer=optax.sgd(1.0),
    export=lambda variables: {},
    micro_batches=number,
    axis_name=None,
  )


def test_dropout_is_drawn_twice_by_the_same_keys():
  batch = _batch(8)
  features, method = _dropping(2)
  state = method.init(jax.random.key(0), batch["image"])
  key = jax.random.fold_in(state.key, 0)

  def in_one_pass(params):
    parts = [slice(0, 4), slice(4, 8)]
    logits = [
      features(
        {"params": params},
        {name: array[part] for name, array in batch.items()},
        (),
        key=jax.random.fold_in(key, i),
      )[0]
      for i, part in enumerate(parts)
    ]
    images = batch["image"].reshape(8, -1)
    return losses.similarity_preserving(jnp.concatenate(logits), images)

  after, _ = _step(method, batch)
  gradient = jax.grad(in_one_pass)(state.params)
  assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-3
  moved = jax.tree.map(lambda a, b: a - b, state.params, after.params)
  _assert_close(moved, gradient, rtol=1e-5)


def test_every_method_that_is_trained_takes_micro_batches():
  trained = [
    name
    for name in methods.__all__
    if inspect.isfunction(make := getattr(methods, name))
    and "optimizer" in inspect.signature(make).parameters
  ]
  assert len(trained) > 10
  for name in trained:
    assert "micro_batches" in inspect.signature(getattr(methods, name)).parameters, name


WITH_BATCH_NORM = [
  "supervised",
  "quadratic",
  "hint",
  "online ensemble",
  "branches on a frozen backbone",
  "hierarchical student",
  "hierarchical mutual",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_batch_norm_reads_one_micro_batch_of_every_method(name, network, monkeypatch):
  # Parts of equal rows have the statistics of the whole batch.
  rows = _batch(6, valid=5)
  rows["image"] = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
  batch = {key: jnp.repeat(array, 2, axis=0) for key, array in rows.items()}
  make = parity_test.METHODS[name]
  expected, _ = _step(make(network, None), batch)
  original = methods._method.gradient_method
  monkeypatch.setattr(
    methods._method,
    "gradient_method",
    lambda **options: original(**{**options, "micro_batches": 2}),
  )
  method = make(network, None)
  state, _ = _step(method, batch)
  _assert_close(state.params, expected.params, rtol=1e-5)


def test_running_averages_move_once_for_every_micro_batch():
  class Normalized(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      x = images.reshape(len(images), -1)
      return nn.Dense(3)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))

  method = methods.supervised(
    Normalized(), optax.sgd(0.0), micro_batches=2, axis_name=None
  )
  batch = _batch(16)
  state, _ = _step(method, batch)
  # Runs of four rows in turn, as the rows of one image may have to stay together.
  rows = (
    np.asarray(batch["image"]).reshape(2, 2, 4, -1).swapaxes(0, 1).reshape(2, 8, -1)
  )
  mean = np.zeros(16)
  for part in rows:
    mean = 0.5 * mean + 0.5 * part.mean(0)
  (found,) = jax.tree.leaves(state.collections["batch_stats"])[:1]
  np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_memory_is_that_of_one_micro_batch():
  class Deep(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      x = images
      for _ in range(6):
        x = nn.tanh(nn.Conv(16, (3, 3))(x))
      return nn.Dense(3)(x.mean((1, 2)))

  def needed(rows, number):
    method = methods.supervised(
      Deep(), optax.sgd(0.1), micro_batches=number, axis_name=None
    )
    images = jax.ShapeDtypeStruct((rows, 16, 16, 3), jnp.float32)
    batch = {
      "image": images,
      "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
      "mask": jax.ShapeDtypeStruct((rows,), bool),
    }
    state = jax.eval_shape(method.init, jax.random.key(0), images)
    compiled = jax.jit(method.update).lower(state, batch, ()).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  images = 256 * 16 * 16 * 3 * 4
  assert needed(256, 8) < 1.2 * needed(32, 1) + 2 * images
  assert needed(256, 1) > 5 * needed(32, 1)


@pytest.mark.parametrize(
  ("number", "error", "match"),
  [
    (0, ValueError, "micro_batches: expected a number above 0, got 0"),
    (1.5, TypeError, "micro_batches: expected a whole number"),
  ],
)
def test_impossible_numbers_of_micro_batches_are_refused(number, error, match):
  with pytest.raises(error, match=match):
    _distilled(number)


def test_more_micro_batches_than_rows_are_refused():
  with pytest.raises(ValueError, match="micro_batches: expected at most as many as"):
    _step(_distilled(9), _batch(8))


def test_loss_without_features_is_refused_with_micro_batches():
  def loss(variables, batch, constants, *, step, key):
    raise AssertionError

  with pytest.raises(TypeError, match="loss: expected a FeatureLoss"):
    methods.gradient_method(
      init_variables=lambda key, images: {},
      loss=loss,
      optimizer=optax.sgd(1.0),
      export=lambda variables: {},
      micro_batches=2,
      axis_name=None,
    )


def test_features_that_are_no_rows_are_refused():
  def features(variables, batch, constants, *, key):
    return batch["image"].mean(), {}

  method = methods.gradient_method(
    init_variables=lambda key, images: {"params": {"x": jnp.zeros(())}},
    loss=methods.FeatureLoss(features, lambda found, *_, **__: (found, ({}, {}))),
    optimizer=optax.sgd(1.0),
    export=lambda variables: {},
    micro_batches=2,
    axis_name=None,
  )
  with pytest.raises(
    ValueError, match="features: expected arrays of one row per image"
  ):
    _step(method, _batch(8))

"""Steps mapped by `pmap` and by `jit`: equal results, refusals, sharded teachers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import parallel
from flowkd_jax import teacher_cache
from flowkd_jax import train
from flowkd_jax.train import _parallelism

pytestmark = pytest.mark.optimizer

IMAGES = jnp.zeros((2, 8, 8, 1))
SHARDED = parallel.fully_sharded("constants")


@functools.cache
def _teacher():
  model = models.by_name("digits_cnn:16", num_classes=3)
  return methods.Network(model, capture.init(model, jax.random.key(7), IMAGES))


def _flow(axis_name):
  student = models.by_name("digits_cnn:2", num_classes=3, axis_name=axis_name)
  return methods.information_flow(
    student,
    _teacher(),
    optax.sgd(0.1),
    pairs={"dense": "dense"},
    weights={"dense": 1.0},
    label_weight=1.0,
    axis_name=axis_name,
  )


def _plain(axis_name):
  model = models.by_name("digits_cnn:2", num_classes=3, axis_name=axis_name)
  return methods.supervised(model, optax.sgd(0.1), axis_name=axis_name)


def _fit(method, batches, epochs=1, **options):
  options = train.FitOptions(**options)
  key = jax.random.key(0)
  return train.fit(method, batches, epochs=epochs, key=key, options=options).state


def _assert_close(actual, expected, tolerance=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
    jax.device_get((actual.params, actual.collections)),
    jax.device_get((expected.params, expected.collections)),
  )


@pytest.mark.slow
def test_modes_agree_step_by_step_and_in_one_call(batches):
  expected = _fit(_flow("batch"), batches)
  for steps in (1, 3):
    state = _fit(_flow(None), batches, parallelism="jit", steps_per_call=steps)
    _assert_close(state, expected)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))


def _bytes_per_device(tree):
  held = dict.fromkeys(jax.local_devices(), 0)
  for leaf in jax.tree.leaves(tree):
    for shard in leaf.addressable_shards:
      held[shard.device] += shard.data.nbytes
  return held


@pytest.mark.slow
@pytest.mark.eight_devices
def test_sharded_teacher_equals_the_replicated_one(batches):
  """No device holds more than its share of the teacher's kernels."""
  method = _flow(None)
  replicated, sharded = (
    train.DeviceStep(
      method, batches.prepare, batches.resident, parallelism="jit", shard=shard
    )
    for shard in (None, SHARDED)
  )
  states = []
  for step in (replicated, sharded):
    state = step.place_state(method.init(jax.random.key(0), IMAGES))
    for batch in batches.epoch(0):
      state, metrics = step(state, batch)
    states.append((state, float(metrics["loss"])))
  _assert_close(states[1][0], states[0][0])
  np.testing.assert_allclose(states[1][1], states[0][1], rtol=1e-5)
  whole = sum(leaf.nbytes for leaf in jax.tree.leaves(method.constants))
  assert {*_bytes_per_device(replicated.constants).values()} == {whole}
  most = max(_bytes_per_device(sharded.constants).values())
  assert whole / 8 <= most < whole / 6  # scalars and a few biases stay whole


@pytest.mark.slow
@pytest.mark.eight_devices
def test_run_that_began_by_pmap_goes_on_with_a_sharded_state(batches, tmp_path):
  options = {"parallelism": "jit", "shard": parallel.fully_sharded("state")}
  expected = _fit(_plain(None), batches, epochs=2, parallelism="jit")
  with train.Checkpoints(tmp_path) as checkpoints:
    _fit(_plain("batch"), batches, checkpoints=checkpoints)
  with train.Checkpoints(tmp_path) as checkpoints:
    state = _fit(_plain(None), batches, epochs=2, checkpoints=checkpoints, **options)
  _assert_close(state, expected)
  kernel = state.params["hidden"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 8


@pytest.mark.slow
def test_diagnostics_and_features_agree(batches, split):
  observed, features = [], []
  clean = data.evaluation_batches(split, batch_size=16, mean=(128,), std=(64,))
  for parallelism, axis, shard in [("pmap", "batch", None), ("jit", None, SHARDED)]:
    method = _flow(axis)
    state = train.replicate(method.init(jax.random.key(0), IMAGES))
    diagnostics = train.Diagnostics(
      method, batches, parallelism=parallelism, shard=shard
    )
    observed.append(diagnostics(state))
    rule = shard and parallel.fully_sharded("variables")
    extract = train.FeatureExtractor(
      _teacher().model, clean, parallelism=parallelism, shard=rule
    )
    features.append(extract(_teacher().variables))
  assert observed[0].keys() == observed[1].keys()
  for name, value in observed[0].items():
    np.testing.assert_allclose(observed[1][name], value, rtol=1e-4, err_msg=name)
  np.testing.assert_array_equal(features[1].labels, features[0].labels)
  for name, tap in features[0].taps.items():
    np.testing.assert_allclose(features[1].taps[name], tap, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_teacher_cache_agrees(batches, tmp_path):
  read = []
  for parallelism, shard in [("pmap", None), ("jit", SHARDED)]:
    cached = teacher_cache.open_cache(
      tmp_path / parallelism,
      batches,
      _flow(None).teacher,
      epochs=1,
      say=lambda text: None,
      parallelism=parallelism,
      shard=shard,
    )
    read.append(next(cached.epoch(0)))
  assert read[0].keys() == read[1].keys()
  for name, rows in read[0].items():
    np.testing.assert_allclose(read[1][name], rows, rtol=1e-5, atol=1e-6)


@pytest.mark.eight_devices
@pytest.mark.parametrize(
  ("axis_name", "parallelism", "hint"),
  [
    (None, "pmap", "axis_name='batch', or choose parallelism='jit'"),
    ("batch", "jit", "axis_name=None, or choose parallelism='pmap'"),
    ("rows", "pmap", "axis_name='batch'$"),
  ],
)
def test_method_of_another_mode_is_refused(axis_name, parallelism, hint, toy, batches):
  method = toy()._replace(axis_name=axis_name)
  for refuse in (
    lambda: train.fit(
      method,
      batches,
      epochs=1,
      key=jax.random.key(0),
      options=train.FitOptions(parallelism=parallelism),
    ),
    lambda: train.check_method(method, batches, parallelism=parallelism),
    lambda: train.Diagnostics(method, batches, parallelism=parallelism),
  ):
    with pytest.raises(ValueError, match=f"method: expected one made with .*{hint}"):
      refuse()


@pytest.mark.slow
def test_method_without_axis_runs_by_pmap_on_one_device(batches):
  state = _fit(_plain(None), batches, devices=jax.local_devices()[:1])
  assert int(state.step) == 3


class _OfFlax(nn.Module):
  @nn.compact
  def __call__(self, images, train=False):
    x = images.reshape(len(images), -1)
    x = nn.BatchNorm(use_running_average=not train, axis_name="batch")(x)
    return nn.Dense(3)(x)


@pytest.mark.parametrize("model", [models.by_name("digits_cnn:2", axis_name="batch")])
def test_network_that_names_an_axis_is_refused_in_jit_mode(model, batches):
  for network in (model, _OfFlax()):
    method = methods.supervised(network, optax.sgd(0.1), axis_name=None)
    with pytest.raises(ValueError, match="expected axis_name=None, as the step gets"):
      train.check_method(method, batches, parallelism="jit")


def test_rules_and_modes_that_cannot_work_are_refused(monkeypatch):
  with pytest.raises(ValueError, match="parallelism: expected one of pmap, jit, got"):
    train.FitOptions(parallelism="shard_map")  # pyright: ignore
  with pytest.raises(ValueError, match="shard: expected parallelism='jit' with a rule"):
    train.FitOptions(shard=SHARDED)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match="expected 'pmap' with several processes"):
    _parallelism.check_parallelism("jit", None)

"""The launcher's training step lowers for TPU and GPU, on a machine without either."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from tests.methods.contract_rows import ROWS

pytestmark = pytest.mark.optimizer


def _network(width=2, axis_name=None):
  return models.by_name(f"digits_cnn:{width}", num_classes=3, axis_name=axis_name)


def _supervised():
  return methods.supervised(_network(axis_name="batch"), optax.adam(1e-3))


def _information_flow(**options):
  teacher, student = _network(width=4), _network(axis_name="batch")
  variables = capture.init(teacher, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.information_flow(
    student,
    methods.Network(teacher, variables),
    optax.adam(1e-3),
    pairs={tap: tap for tap in student.taps},
    weights=dict.fromkeys(student.taps, 1.0),
    **options,
  )


def _authors():
  return _information_flow(matching_options={"authors": True})


@pytest.mark.eight_devices
@pytest.mark.slow
@pytest.mark.parametrize("make", [_supervised, _information_flow, _authors])
def test_training_step_lowers_for_tpu_and_cuda(make, batches):
  method = make()
  images = np.zeros((2, 8, 8, 1), np.float32)
  state = jax.eval_shape(method.init, jax.random.key(0), images)
  step = train.DeviceStep(method, batches.prepare, batches.resident)
  batch = next(iter(batches.epoch(0)))
  exported = jax.export.export(jax.jit(step), platforms=["tpu", "cuda"])(state, batch)
  assert exported.platforms == ("tpu", "cuda")
  assert exported.nr_devices == 8
  module = exported.mlir_module()
  assert "stablehlo.all_reduce" in module  # of gradients and batch statistics
  assert ("stablehlo.all_gather" in module) == (make is not _supervised)  # of taps


def _federated(batches):
  clients = np.array_split(np.arange(batches.num_examples), 8)
  return data.FederatedBatches(
    batches, clients=clients, clients_per_round=8, local_steps=2, minibatch_size=2
  )


@pytest.mark.slow
@pytest.mark.eight_devices
@pytest.mark.parametrize("name", ROWS)
def test_many_steps_a_call_lower_for_tpu_and_cuda(name, batches):
  row = ROWS[name]
  images = np.zeros((2, 8, 8, 1), np.float32)
  variables = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(
      lambda key: capture.init(row.network, key, images), jax.random.key(0)
    ),
  )
  method = row.make(optax.adam(1e-3), variables)
  if name == "federated_averaging":
    batches = _federated(batches)
  state = jax.eval_shape(method.init, jax.random.key(0), images)
  step = train.DeviceStep(method, batches.prepare, batches.resident, steps_per_call=3)
  rows = [*batches.epoch(0)][:2]
  many = jax.jit(lambda state: step.run(state, rows))
  exported = jax.export.export(many, platforms=["tpu", "cuda"])(state)
  assert exported.platforms == ("tpu", "cuda")
  assert exported.nr_devices == 8
  assert "stablehlo.while" in exported.mlir_module()
  _, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  assert {leaf.shape for leaf in metrics.values()} == {(3,)}

"""Mapping a step over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import parallel
from flowkd_jax import train
from flowkd_jax.parallel import _resident

pytestmark = pytest.mark.optimizer
SGD = optax.sgd(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_step_gives_the_same_on_any_number_of_devices(devices, method, batches):
  chosen = jax.local_devices()[:devices]
  # Compiled once, for the last batch too, which has fewer rows.
  chex.clear_trace_counter()  # it counts by name
  update = chex.assert_max_traces(method.update, n=1)
  method = method._replace(update=update)
  state = method.init(jax.random.key(0), np.zeros((2, 8, 8, 1), np.float32))
  step = train.DeviceStep(method, batches.prepare, batches.resident, devices=chosen)
  state = train.replicate(state, chosen)
  losses = []
  for batch in batches.epoch(0):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  np.testing.assert_allclose(losses, _REFERENCE.setdefault("losses", losses), rtol=1e-5)
  assert int(state.step) == 3
  chex.assert_tree_all_finite((state.params, state.opt_state))
  assert state.params["conv_1"]["bias"].sharding.is_fully_replicated


_REFERENCE: dict[str, list[float]] = {}


def test_batch_that_devices_cannot_share_is_refused():
  message = "8 devices cannot share 100 rows evenly; .*: 96 or 104"
  with pytest.raises(ValueError, match=message):
    parallel.check_batch_size(100, 8)
  with pytest.raises(ValueError, match="nearest sizes that they can: 8"):
    parallel.check_batch_size(3, 8)
  with pytest.raises(ValueError, match="--clients: 4 devices cannot share 6 clients"):
    parallel.check_batch_size(6, 4, name="--clients", of="clients")
  parallel.check_batch_size(128, 8)


@pytest.mark.eight_devices
def test_step_refuses_a_batch_that_devices_cannot_share(method, batches):
  step = train.DeviceStep(method, batches.prepare, batches.resident)
  batch = {name: rows[:10] for name, rows in next(batches.epoch(0)).items()}
  with pytest.raises(ValueError, match="8 devices cannot share 10 rows"):
    step(None, batch)


@pytest.mark.slow
@pytest.mark.eight_devices
@pytest.mark.parametrize("devices", [1, 2])
def test_plain_batch_norm_is_refused_on_several_devices(devices, batches):
  method = methods.supervised(models.by_name("digits_cnn:2", num_classes=3), SGD)
  state = jax.eval_shape(method.init, jax.random.key(0), np.zeros((2, 8, 8, 1)))
  chosen = jax.local_devices()[:devices]
  step = train.DeviceStep(method, batches.prepare, batches.resident, devices=chosen)
  if devices == 1:
    step.needed_bytes(state, next(batches.epoch(0)))
    return
  with pytest.raises(ValueError, match="BatchNorm at norm_1 normalises by the rows of"):
    step.needed_bytes(state, next(batches.epoch(0)))


@pytest.mark.slow
def test_needed_bytes_hold_state_and_data(method, batches):
  state = method.init(jax.random.key(0), np.zeros((2, 8, 8, 1), np.float32))
  step = train.DeviceStep(method, batches.prepare, batches.resident)
  needed = step.needed_bytes(train.replicate(state), next(batches.epoch(0)))
  resident = batches.resident["images"].nbytes
  assert resident < needed < 2**22


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["pmap", "jit"])
def test_steps_on_data_that_is_split_are_those_on_the_whole(
  parallelism, batches, monkeypatch
):
  """One by one and several in one call."""
  axis = parallel.axis_of(parallelism)

  def update(state, batch, constants):
    weights = batch["label"] + batch["image"].sum((1, 2, 3))
    total = parallel.global_sum(jnp.where(batch["mask"], weights, 0).sum(), axis)
    return state + total, {"total": total}

  method = methods.Method(lambda *_: None, update, lambda _: {}, axis_name=axis)
  rows, states = [*batches.epoch(0)], []
  for memory in (2**30, 64):
    monkeypatch.setattr(_resident, "device_bytes", lambda _, most=memory: most)
    step = train.DeviceStep(
      method,
      batches.prepare,
      batches.resident,
      steps_per_call=3,
      parallelism=parallelism,
      row_arrays=batches.row_arrays,
    )
    state, _ = step(step.place_state(jnp.zeros(())), rows[0])
    state, _ = step.run(state, rows)
    states.append(float(state))
  held = step._resident.arrays["images"].addressable_shards[0].data
  assert held.size == 6 * 8 * 8  # of 44 images
  np.testing.assert_allclose(states[1], states[0], rtol=1e-6)

"""Diagnostics beside the training loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train

pytestmark = pytest.mark.optimizer


@pytest.fixture
def flow():
  teacher = models.by_name("digits_cnn:4", num_classes=3)
  variables = capture.init(teacher, jax.random.key(1), jnp.zeros((2, 8, 8, 1)))
  return methods.information_flow(
    models.by_name("digits_cnn:2", num_classes=3, axis_name="batch"),
    methods.Network(teacher, variables),
    optax.sgd(0.1),
    pairs={"dense": "dense"},
    weights={"dense": 1.0},
    label_weight=1.0,
  )


@pytest.mark.eight_devices
@pytest.mark.slow
def test_diagnostics_is_the_same_on_any_number_of_devices(flow, batches):
  found = []
  for count in (1, 8):
    devices = jax.local_devices()[:count]
    state = flow.init(jax.random.key(0), np.zeros((2, 8, 8, 1), np.float32))
    diagnostics = train.Diagnostics(flow, batches, devices=devices)
    found.append(diagnostics(train.replicate(state, devices)))
  assert found[0].keys() == {
    "gradient/dense",
    "gradient/labels",
    "gradient_ratio",
    "cka/dense",
    "batch_qmi/student/dense",
    "batch_qmi/teacher/dense",
  }
  for name, value in found[0].items():
    np.testing.assert_allclose(found[1][name], value, rtol=2e-4, err_msg=name)


@pytest.mark.cpu("a GPU need not repeat an update to the bit")
@pytest.mark.slow
def test_training_with_diagnostics_is_the_same_to_the_bit(flow, batches):
  def parameters(on_epoch):
    options = train.FitOptions(on_epoch=on_epoch)
    key = jax.random.key(0)
    fitted = train.fit(flow, batches, epochs=2, key=key, options=options)
    return jax.tree.leaves(jax.device_get(fitted.state.params))

  diagnostics = train.Diagnostics(flow, batches)
  seen = []

  def on_epoch(epoch, method, state):
    seen.append(diagnostics(state))
    return seen[-1]

  plain, observed = parameters(None), parameters(on_epoch)
  jax.tree.map(np.testing.assert_array_equal, observed, plain)
  assert len(seen) == 3
  assert seen[0]["gradient/dense"] != seen[2]["gradient/dense"]


@pytest.mark.slow
def test_methods_without_terms_or_observation_have_no_diagnostics(method, batches):
  state = method.init(jax.random.key(0), np.zeros((2, 8, 8, 1), np.float32))
  assert train.Diagnostics(method, batches)(train.replicate(state)) == {}
  assert train.Diagnostics(method._replace(observe=None), batches)(None) == {}


@pytest.mark.slow
@pytest.mark.eight_devices
def test_batch_that_devices_cannot_share_is_refused(flow, batches):
  with pytest.raises(ValueError, match="3 devices cannot share 16 rows"):
    train.Diagnostics(flow, batches, devices=jax.local_devices()[:3])

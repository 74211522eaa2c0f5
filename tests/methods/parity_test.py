"""The same update on one device, on eight, and under plain jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models

pytestmark = [pytest.mark.optimizer, pytest.mark.slow]


def _supervised(network, axis_name):
  return methods.supervised(network(axis_name), optax.sgd(0.1), axis_name=axis_name)


def _information_flow(network, axis_name, *, learning_rate=0.1, **options):
  teacher = network(width=4)
  variables = capture.init(teacher, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.information_flow(
    network(axis_name),
    methods.Network(teacher, variables),
    optax.sgd(learning_rate),
    **PAIRS,
    weights=dict.fromkeys(PAIRS["pairs"], 1.0),
    axis_name=axis_name,
    **options,
  )


def _quadratic(network, axis_name):
  return _information_flow(
    network,
    axis_name,
    learning_rate=0.01,
    matching="quadratic",
    matching_options={"num_classes": 3, "kernels": ("student_t",)},
    label_weight=1.0,
  )


def _authors(network, axis_name):
  return _information_flow(network, axis_name, matching_options={"authors": True})


def _with_teacher(method, **options):
  def make(network, axis_name):
    teacher = network(width=4)
    variables = capture.init(teacher, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
    return method(
      network(axis_name),
      methods.Network(teacher, variables),
      optax.sgd(0.1),
      axis_name=axis_name,
      **options,
    )

  return make


def _resnet(axis_name, width=4):
  return models.CifarResNet(
    num_blocks=1, widths=(width,), stem_width=4, num_classes=3, axis_name=axis_name
  )


def _online_ensemble(network, axis_name):
  del network
  return methods.online_ensemble(
    _resnet(axis_name), optax.sgd(0.1), num_students=2, axis_name=axis_name
  )


def _frozen_backbone(network, axis_name):
  del network
  model = _resnet(axis_name, width=16)
  variables = capture.init(model, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.hierarchical_teacher(
    model, optax.sgd(0.5), backbone=variables, axis_name=axis_name
  )


def _hierarchical_student(network, axis_name):
  del network
  teacher = models.with_branches(_resnet(None, width=6), 12)
  variables = capture.init(teacher, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.hierarchical_student(
    _resnet(axis_name),
    methods.Network(teacher, variables),
    optax.sgd(0.1),
    axis_name=axis_name,
  )


def _hierarchical_mutual(network, axis_name):
  del network
  pair = _resnet(axis_name), _resnet(axis_name, width=3)
  return methods.hierarchical_mutual(pair, optax.sgd(0.1), axis_name=axis_name)


PAIRS = {"pairs": {"block_2": "block_2", "dense": "dense"}}
METHODS = {
  "supervised": _supervised,
  "information flow": _information_flow,
  "quadratic": _quadratic,
  "authors": _authors,
  "knowledge distillation": _with_teacher(methods.knowledge_distillation),
  "filtered gradients": _with_teacher(
    methods.filtered_distillation, gradient_filter="saturated"
  ),
  "randomly filtered gradients": _with_teacher(
    methods.filtered_distillation, gradient_filter="random"
  ),
  "hint": _with_teacher(methods.hint, **PAIRS, weight=0.1),
  "similarity preserving": _with_teacher(methods.similarity_preserving, **PAIRS),
  "unrelated similarities": _with_teacher(
    methods.similarity_preserving, **PAIRS, weight=1.0, unrelated=True
  ),
  "online ensemble": _online_ensemble,
  "branches on a frozen backbone": _frozen_backbone,
  "hierarchical student": _hierarchical_student,
  "hierarchical mutual": _hierarchical_mutual,
}


def _run(method, step, batches):
  state = method.init(jax.random.key(0), batches[0]["image"])
  losses = []
  for batch in batches:
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  return state, losses


@functools.cache
def _plain(make, network):
  """The method on one device and its compiled step."""
  method = make(network, None)
  return method, jax.jit(lambda s, b: method.update(s, b, method.constants))


@pytest.mark.eight_devices
@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_one_device_eight_devices_and_plain_jit_agree(make, network, batches):
  expected, expected_losses = _run(*_plain(make, network), batches)
  mapped = make(network, "batch")
  assert mapped.axis_name == "batch"  # which says how it may be mapped
  # A device alone takes part in the same collectives: tried with one method of a kind.
  alone = make in (_supervised, _information_flow, _online_ensemble)
  for devices in (1, 8) if alone else (8,):
    update = jax.pmap(
      mapped.update,
      axis_name="batch",
      in_axes=(None, 0, None),
      out_axes=None,
      devices=jax.local_devices()[:devices],
    )

    def step(state, batch, update=update, devices=devices):
      split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
      return update(state, split, mapped.constants)

    state, losses = _run(mapped, step, batches)
    # Sums in another order: what float32 makes of that depends on the processor.
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-6)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      (state.params, state.collections),
      (expected.params, expected.collections),
    )


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_training_reduces_the_loss(make, network, batches):
  method, step = _plain(make, network)
  assert method.axis_name is None
  state = method.init(jax.random.key(0), batches[0]["image"])
  losses = []
  for _ in range(20):
    state, metrics = step(state, batches[0])
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.9 * losses[0]
  assert all(np.isfinite(value) for value in metrics.values())
  assert int(state.step) == 20


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_every_method_reads_labels_by_one_rule(make, network, batches):
  method, step = _plain(make, network)
  state = method.init(jax.random.key(0), batches[0]["image"])
  batch = batches[-1]  # row 12 is padding
  labels = np.asarray(batch["label"])

  def loss(row, label):
    changed = np.where(np.arange(16) == row, np.int32(label), labels)
    updated, metrics = step(state, {**batch, "label": jnp.asarray(changed)})
    finite = all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(updated.params))
    assert finite == np.isfinite(metrics["loss"])
    return metrics["loss"]

  assert loss(12, 3) == loss(12, -1) == loss(12, labels[12])
  assert np.isfinite(loss(3, -1))
  assert loss(3, -1) == loss(3, -100)
  reads_labels = loss(3, (labels[3] + 1) % 3) != loss(3, labels[3])
  assert np.isnan(loss(3, 3)) == reads_labels

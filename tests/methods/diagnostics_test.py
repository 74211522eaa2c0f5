"""Diagnostics of methods: gradients of terms, likeness to the teacher."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax.methods import _diagnostics

pytestmark = pytest.mark.optimizer
PAIRS = {"block_2": "block_1", "dense": "dense"}


@pytest.fixture
def teacher(network):
  model = network(width=4)
  variables = capture.init(model, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.Network(model, variables)


def _flow(network, teacher, **options):
  return methods.information_flow(
    network(),
    teacher,
    optax.sgd(0.1),
    pairs=PAIRS,
    weights={"block_2": 10.0, "dense": 1.0},
    axis_name=None,
    **options,
  )


def _observed(method, batch):
  state = method.init(jax.random.key(0), batch["image"])
  return state, jax.jit(method.observe)(state, batch, method.constants)


@pytest.mark.slow
def test_gradients_are_those_of_the_weighted_terms(network, teacher, batches):
  batch = batches[2]
  method = _flow(network, teacher, label_weight=0.5)
  state, found = _observed(method, batch)
  model = network()

  def terms(params):
    variables = {"params": params["student"], **state.collections}
    (logits, taps), _ = capture.apply_with_taps(
      model,
      variables,
      batch["image"],
      train=True,
      mask=batch["mask"],
      mutable=["batch_stats"],
    )
    _, theirs = capture.apply_with_taps(*teacher, batch["image"])
    flow = losses.information_flow_terms(taps, theirs, pairs=PAIRS, mask=batch["mask"])
    labels = losses.cross_entropy(logits, batch["label"], mask=batch["mask"])
    return {
      "block_2": 10 * flow["block_2"],
      "dense": flow["dense"],
      "labels": 0.5 * labels,
      "flow": 10 * flow["block_2"] + flow["dense"],
    }

  def vector(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

  gradients = jax.jit(jax.jacrev(terms))(state.params)
  norms = {name: np.linalg.norm(vector(tree)) for name, tree in gradients.items()}
  for name in ("block_2", "dense", "labels"):
    np.testing.assert_allclose(found[f"gradient/{name}"], norms[name], rtol=1e-3)
  ratio = norms["flow"] / norms["labels"]
  np.testing.assert_allclose(found["gradient_ratio"], ratio, rtol=1e-3)


@pytest.mark.slow
def test_likeness_is_one_to_itself_and_of_numpy_else(network, teacher, batches):
  batch = batches[0]
  _, found = _observed(_flow(network, teacher), batch)
  assert "gradient_ratio" not in found
  own = methods.information_flow(
    network(width=4),
    teacher,
    optax.sgd(0.1),
    pairs={"dense": "dense"},
    weights={"dense": 1.0},
    initial=teacher.variables,
    axis_name=None,
  )
  # In training BatchNorm takes the statistics of the batch: alike, not the same.
  _, same = _observed(own, batch)
  assert 0.6 < same["cka/dense"] <= 1
  assert found["cka/dense"] < same["cka/dense"]
  _, taps = capture.apply_with_taps(*teacher, batch["image"])
  rows = np.asarray(taps["block_1"], np.float64).reshape(16, -1)
  unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  kernel = (unit @ unit.T + 1) / 2
  labels = np.asarray(batch["label"])
  alike = labels[:, None] == labels[None]
  shares = np.bincount(labels, minlength=3) / 16
  expected = (alike * kernel).mean() + (shares**2).sum() * kernel.mean()
  expected -= 2 * (shares[labels] * kernel.mean(1)).mean()
  np.testing.assert_allclose(found["batch_qmi/teacher/block_2"], expected, rtol=1e-4)
  assert found["batch_qmi/student/block_2"] > 0
  # The pairs that learn are those of `cka/` to the bit; the others are there too.
  pairs = {name for name in found if name.startswith("cka_pair/")}
  assert pairs == {
    f"cka_pair/{tap}:{other}"
    for tap in ("block_2", "dense")
    for other in ("block_1", "dense")
  }
  assert found["cka_pair/block_2:block_1"] == found["cka/block_2"]
  assert 0 < found["cka_pair/block_2:dense"] <= 1
  assert not any(name.startswith("cka_pair/") for name in same)


@pytest.mark.slow
def test_logits_are_compared_where_no_taps_are(network, teacher, batches):
  method = methods.knowledge_distillation(
    network(), teacher, optax.sgd(0.1), axis_name=None
  )
  _, found = _observed(method, batches[2])
  assert set(found) == {
    "gradient/logits",
    "cka/logits",
    "batch_qmi/student/logits",
    "batch_qmi/teacher/logits",
  }


@pytest.mark.slow
def test_wrapped_methods_are_observed_the_same(network, teacher, batches):
  plain = _flow(network, teacher)
  _, expected = _observed(plain, batches[2])
  for wrapped in (methods.averaged(plain), methods.with_trajectory(plain)):
    _, found = _observed(wrapped, batches[2])
    assert found == expected
  assert methods.averaged(plain._replace(observe=None)).observe is None


@pytest.mark.slow
def test_methods_that_draw_rows_are_observed(network, teacher, batches):
  method = methods.filtered_distillation(
    network(), teacher, optax.sgd(0.1), gradient_filter="random", axis_name=None
  )
  _, found = _observed(method, batches[2])
  assert found["gradient_ratio"] > 0


@pytest.mark.slow
def test_rotations_are_observed_without_mutual_information(batches):
  from flowkd_jax import models

  network = models.by_name("resnet8:2", num_classes=3, axis_name=None)
  method = methods.hierarchical_mutual(
    [network, network], optax.sgd(0.1), axis_name=None
  )
  _, found = _observed(method, batches[2])
  assert set(found) == {f"gradient/{term}" for term in _TERMS} | {"gradient_ratio"}


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_gradients_pass_through_grouped_convolutions_on_mapped_devices(groups):
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(2, 3, 5, 5, 6)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 6 // groups, 6)), jnp.float32)

  def terms(kernel, images):
    x = lax.conv_general_dilated(
      images,
      kernel,
      (1, 1),
      "SAME",
      feature_group_count=groups,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return {"sum": x.sum(), "square": jnp.square(x).sum()}

  devices = jax.devices()[:2]
  if len(devices) < 2:
    pytest.skip("needs two devices")

  @functools.partial(jax.pmap, axis_name="batch", in_axes=(None, 0), devices=devices)
  def observe(kernel, images):
    return _diagnostics.gradients(lambda kernel: terms(kernel, images), kernel)

  actual = observe(kernel, images)
  for i in range(2):
    expected = jax.jit(jax.jacrev(terms))(kernel, images[i])
    for name, gradient in expected.items():
      np.testing.assert_allclose(actual[name][i], gradient, rtol=1e-4, atol=1e-4)


_TERMS = ("labels", "joint_labels", "logits", "branches")

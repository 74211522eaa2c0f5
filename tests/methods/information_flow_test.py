"""Information-flow distillation: the frozen teacher, weights, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax import schedules
from flowkd_jax.methods import _information_flow

pytestmark = pytest.mark.optimizer

WEIGHTS = {"block_1": 2.0, "block_2": 3.0, "dense": 1.0}


@pytest.fixture
def teacher(network):
  model = network(width=4)
  variables = capture.init(model, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.Network(model, variables)


def _method(network, teacher, **options):
  student = network()
  defaults = {
    "pairs": {tap: tap for tap in student.taps},
    "weights": WEIGHTS,
  }
  return methods.information_flow(
    student, teacher, optax.sgd(0.1), axis_name=None, **{**defaults, **options}
  )


@pytest.mark.slow
def test_loss_is_the_weighted_sum_over_taps(network, teacher, batches):
  method = _method(network, teacher)
  batch = batches[2]
  state = method.init(jax.random.key(0), batch["image"])
  _, metrics = jax.jit(method.update)(state, batch, method.constants)
  variables = {"params": state.params["student"], **state.collections}

  @jax.jit
  def definition(variables, batch):
    (_, student_taps), _ = capture.apply_with_taps(
      network(),
      variables,
      batch["image"],
      train=True,
      mask=batch["mask"],
      mutable=["batch_stats"],
    )
    _, teacher_taps = capture.apply_with_taps(*teacher, batch["image"])
    return losses.information_flow(
      student_taps, teacher_taps, weights=WEIGHTS, mask=batch["mask"]
    )

  expected = definition(variables, batch)
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
  parts = [metrics[f"weight/{t}"] * metrics[f"loss/{t}"] for t in network().taps]
  np.testing.assert_allclose(sum(parts), expected, rtol=1e-5)


@pytest.mark.slow
def test_teacher_is_frozen_and_gets_no_gradient(network, teacher, batches):
  method = _method(network, teacher)
  state = method.init(jax.random.key(0), batches[0]["image"])

  def loss_of(constants):
    _, metrics = method.update(state, batches[0], constants)
    return metrics["loss"]

  value, gradients = jax.jit(jax.value_and_grad(loss_of))(method.constants)
  assert value > 0
  for gradient in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(gradient, 0)
  # In evaluation mode: the teacher's running statistics are not touched.
  jax.tree.map(np.testing.assert_array_equal, method.constants, dict(teacher.variables))


@pytest.mark.slow
def test_weights_follow_their_schedule(network, teacher, batches):
  schedule = schedules.critical_period(100.0, 0.7, steps_per_epoch=2)
  weights = {"block_1": schedule, "block_2": schedule, "dense": 1.0}
  method = _method(network, teacher, weights=weights)
  state = method.init(jax.random.key(0), batches[0]["image"])
  step = jax.jit(method.update)
  seen = []
  for _ in range(5):
    state, metrics = step(state, batches[0], method.constants)
    seen.append(float(metrics["weight/block_1"]))
  np.testing.assert_allclose(seen, [100, 100, 70, 70, 49], rtol=1e-6)
  assert metrics["weight/dense"] == 1


@pytest.mark.slow
def test_two_student_taps_may_share_a_teacher_tap(network, teacher, batches):
  pairs = {"block_1": "block_1", "block_2": "block_1", "dense": "dense"}
  method = _method(network, teacher, pairs=pairs)
  state = method.init(jax.random.key(0), batches[0]["image"])
  _, metrics = jax.jit(method.update)(state, batches[0], method.constants)
  assert np.isfinite(metrics["loss/block_2"])


@pytest.mark.slow
def test_kernel_objects_are_matching_options(network, teacher, batches):
  batch, terms = batches[0], []
  for kernel in (kernels.von_mises_fisher(8.0), "von_mises_fisher:8", "cosine"):
    options = {"kernels": [kernel], "divergence": information.kullback_leibler}
    method = _method(network, teacher, matching_options=options)
    state = method.init(jax.random.key(0), batch["image"])
    _, metrics = jax.jit(method.update)(state, batch, method.constants)
    terms.append(float(metrics["loss/dense"]))
  assert terms[0] == terms[1] != terms[2]


@pytest.mark.slow
def test_taps_of_equal_options_are_compared_together(
  network, teacher, batches, monkeypatch
):
  calls, terms_of = [], losses.information_flow_terms

  def counted(student, teacher, **options):
    calls.append((sorted(student), options.get("kernels")))
    return terms_of(student, teacher, **options)

  monkeypatch.setitem(_information_flow._TERMS, "probabilities", counted)
  options = {"kernels": "cosine", "taps": {"block_2": {"kernels": "cauchy"}}}
  method = _method(network, teacher, matching_options=options)
  state = method.init(jax.random.key(0), batches[0]["image"])
  shapes = jax.eval_shape(method.update, state, batches[0], method.constants)
  assert {"loss/block_1", "loss/block_2", "loss/dense"} <= set(shapes[1])
  assert calls == [(["block_2"], "cauchy"), (["block_1", "dense"], "cosine")]


@pytest.mark.slow
def test_wrong_kernels_are_refused_before_a_step(network, teacher):
  for options, message in (
    ({"kernels": ["rbf:0"]}, "kernels: expected rbf:BANDWIDTH"),
    ({"taps": {"dense": {"kernels": "vmf"}}}, "kernels: expected one of cosine"),
    ({"divergence": "js"}, "divergence: expected one of jeffreys"),
  ):
    with pytest.raises(ValueError, match=message):
      _method(network, teacher, matching_options=options)


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.POSTERIORS)
def test_last_tap_may_learn_from_class_probabilities(name, network, teacher, batches):
  sharp = {"kernels": ("von_mises_fisher",)}
  method = _method(
    network,
    teacher,
    pairs={"dense": name},
    weights={"dense": 1.0},
    matching_options={"taps": {"dense": sharp}},
  )
  batch = batches[0]
  state = method.init(jax.random.key(0), batch["image"])
  _, metrics = jax.jit(method.update)(state, batch, method.constants)
  variables = {"params": state.params["student"], **state.collections}
  (_, taps), _ = capture.apply_with_taps(
    network(),
    variables,
    batch["image"],
    train=True,
    mask=batch["mask"],
    mutable=["batch_stats"],
  )
  logits, _ = capture.apply_with_taps(*teacher, batch["image"], taps=())
  target = jax.nn.softmax(logits)
  if name == methods.LABELLED_POSTERIOR:
    target = (target + np.eye(logits.shape[1], dtype="f")[batch["label"]]) / 2
  expected = losses.information_flow(
    [taps["dense"]], [target], mask=batch["mask"], **sharp
  )
  np.testing.assert_allclose(metrics["loss/dense"], expected, rtol=1e-5)


@pytest.mark.slow
def test_training_starts_from_given_variables(network, teacher):
  variables = capture.init(network(), jax.random.key(3), jnp.zeros((2, 8, 8, 1)))
  method = _method(network, teacher, initial=variables)
  state = method.init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  exported = method.export(state)["network"].variables
  jax.tree.map(np.testing.assert_array_equal, dict(exported), dict(variables))


def test_impossible_settings_are_refused(network, teacher):
  with pytest.raises(ValueError, match="weights: expected one for each of the taps"):
    _method(network, teacher, weights={"dense": 1.0})
  with pytest.raises(ValueError, match="matching_options: expected options of some"):
    _method(network, teacher, matching_options={"taps": {"dens": {}}})
  with pytest.raises(ValueError, match="matching: expected one of 'probabilities'"):
    _method(network, teacher, matching="probability")


@pytest.mark.slow
def test_missing_tap_is_an_error_that_lists_those_there_are(network, teacher, batches):
  method = _method(network, teacher, pairs={"dens": "dense"}, weights={"dens": 1.0})
  state = method.init(jax.random.key(0), batches[0]["image"])
  with pytest.raises(ValueError, match="has no dens; it sows block_1, block_2"):
    jax.eval_shape(method.update, state, batches[0], method.constants)

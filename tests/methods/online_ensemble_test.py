"""Online ensemble: the loss, the controls, what is exported, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models

pytestmark = pytest.mark.optimizer
STUDENTS = 2
WEIGHTS = {"label_weight": 0.7, "feature_weight": 0.15, "ensemble_weight": 0.2}


def _network(**options):
  return models.CifarResNet(
    num_blocks=1, widths=(4, 6), stem_width=3, num_classes=3, **options
  )


def _method(**options):
  return methods.online_ensemble(
    _network(),
    optax.sgd(0.1),
    **{"num_students": STUDENTS, **WEIGHTS, "axis_name": None, **options},
  )


@pytest.fixture(scope="module")
def trained():
  """Method, state before, batch, state after and metrics of one update."""
  rng = np.random.default_rng(0)
  batch = {
    "image": jnp.asarray(rng.standard_normal((8, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 3, 8), jnp.int32),
    "mask": jnp.arange(8) < 6,
  }
  method = _method()
  with jax.numpy_dtype_promotion("standard"):
    state = method.init(jax.random.key(0), batch["image"])
    after, metrics = jax.jit(method.update)(state, batch, method.constants)
  return method, state, batch, after, metrics


def _training_pass(ensemble, variables, batch):
  return capture.apply_with_taps(
    ensemble,
    variables,
    batch["image"],
    taps=[*ensemble.student_logits, *sum(ensemble.student_maps, ())],
    train=True,
    mask=batch["mask"],
    mutable=["batch_stats"],
  )


def _log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(1, keepdims=True)
  return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.slow
def test_loss_is_that_of_the_paper(trained):
  method, state, batch, _, metrics = trained
  ensemble = method.export(state)["ensemble"].model
  variables = {"params": state.params["ensemble"], **state.collections}
  (_, sown), _ = _training_pass(ensemble, variables, batch)
  valid, temperature = 6, 2.0
  sown = {tap: np.asarray(x, np.float64)[:valid] for tap, x in sown.items()}
  students = [sown[tap] for tap in ensemble.student_logits]
  labels = np.asarray(batch["label"])[:valid]
  cross_entropy = -sum(
    _log_softmax(x)[np.arange(valid), labels].mean() for x in students
  )
  teacher = _log_softmax(np.mean(students, axis=0) / temperature)
  divergence = sum(
    (np.exp(teacher) * (teacher - _log_softmax(x / temperature))).sum(1).mean()
    for x in students
  )
  distance = 0.0
  for tap, target in zip(*reversed(ensemble.student_maps), strict=True):
    adapter = jax.tree.map(np.asarray, state.params["adapters"][tap])
    adapted = sown[tap] @ adapter["kernel"] + adapter["bias"]
    distance += ((sown[target] - adapted) ** 2).mean()
  expected = {
    "loss/labels": cross_entropy,
    "loss/features": distance,
    "loss/ensemble": temperature**2 * divergence,
  }
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4)
  total = sum(
    weight * value
    for weight, value in zip(WEIGHTS.values(), expected.values(), strict=True)
  )
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)


@pytest.mark.slow
def test_everything_is_trained_and_adapters_are_not_exported(trained):
  method, state, _, after, _ = trained
  moved = jax.tree.map(
    lambda a, b: (np.asarray(a) != np.asarray(b)).any(), state.params, after.params
  )
  assert all(jax.tree.leaves(moved))
  exported = method.export(after)
  assert list(exported) == ["student_1", "student_2", "ensemble"]
  assert set(exported["ensemble"].variables["params"]) == {
    "stem",
    "student_1",
    "student_2",
  }


@pytest.mark.slow
def test_exported_students_alone_are_those_within_the_ensemble(trained):
  method, _, batch, after, _ = trained
  exported = method.export(after)
  ensemble = exported["ensemble"]
  mean, sown = capture.apply_with_taps(
    *ensemble, batch["image"], taps=ensemble.model.student_logits
  )
  alone = []
  for number, tap in enumerate(ensemble.model.student_logits, start=1):
    model, variables = exported[f"student_{number}"]
    assert type(model) is models.CifarResNet
    fresh = jax.eval_shape(model.init, jax.random.key(0), batch["image"])
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)
    alone.append(model.apply(variables, batch["image"]))
    np.testing.assert_allclose(alone[-1], sown[tap], rtol=1e-6)
  np.testing.assert_allclose(mean, np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
  # The running statistics have moved, so that they, not the batch, are tested here.
  stem = ensemble.variables["batch_stats"]["stem"]["norm"]
  assert np.abs(stem["mean"]).max() > 0


@pytest.mark.slow
def test_students_follow_the_gradients_of_labels_and_ensemble(trained):
  method, state, batch, after, _ = trained
  ensemble = method.export(state)["ensemble"].model
  variables = {"params": state.params["ensemble"], **state.collections}
  (mean, sown), _ = _training_pass(ensemble, variables, batch)
  labels = np.eye(3)[np.asarray(batch["label"])]
  softmax = lambda x: np.exp(_log_softmax(x))
  for number, tap in enumerate(ensemble.student_logits, start=1):
    logits = np.asarray(sown[tap])
    gradient = 0.7 * (softmax(logits) - labels)
    gradient += 0.2 * 2.0 * (softmax(logits / 2) - softmax(mean / 2))
    before, now = (
      x.params["ensemble"][f"student_{number}"]["classifier"]["bias"]
      for x in (state, after)
    )
    np.testing.assert_allclose(
      (before - now) / 0.1, gradient[:6].mean(0), rtol=1e-3, atol=1e-5
    )


@pytest.mark.slow
def test_the_widest_student_does_not_follow_the_adapted_maps(trained):
  _, state, batch, after, _ = trained
  state = state.replace(params={**state.params, "adapters": {}})
  without = jax.jit(_method(feature_weight=0.0).update)(state, batch, ())[0]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    after.params["ensemble"]["student_1"],
    without.params["ensemble"]["student_1"],
  )
  thin = [x.params["ensemble"]["student_2"]["classifier"] for x in (after, without)]
  stage = [
    x.params["ensemble"]["student_2"]["stage_1_block_1"]["conv_1"]["conv"]["kernel"]
    for x in (after, without)
  ]
  np.testing.assert_allclose(thin[0]["bias"], thin[1]["bias"], atol=1e-6)
  assert np.abs(stage[0] - stage[1]).max() > 1e-5


@pytest.mark.slow
def test_shared_base_alone_is_cross_entropy(trained):
  _, state, batch, _, _ = trained
  method = _method(feature_weight=0.0, ensemble_weight=0.0)
  fresh = jax.eval_shape(method.init, jax.random.key(0), batch["image"])
  assert fresh.params["adapters"] == {}
  state = state.replace(params={**state.params, "adapters": {}})
  _, metrics = jax.eval_shape(method.update, state, batch, ())
  assert set(metrics) == {"loss", "gradient_norm", "loss/labels", "weight/labels"}


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"num_students": 1}, "num_students: expected 2 or more, got 1"),
    ({"num_students": 5}, r"5 students need at least 5 channels .* got \(4, 6\)"),
    ({"label_weight": 0.0}, "label_weight: expected a number above 0"),
    ({"feature_weight": -1.0}, "weight of features: expected 0 or above, got -1"),
    ({"temperature": 0.0}, "temperature: expected a number above 0"),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    _method(**options)


def test_networks_that_cannot_be_split_are_refused(network):
  with pytest.raises(TypeError, match="network: expected a CifarResNet.* got CNN"):
    methods.online_ensemble(network(), optax.sgd(0.1))

"""Filtered distillation: what passes, and what becomes of the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax.methods import _domain_generalization

pytestmark = pytest.mark.optimizer

T = 2.0
THRESHOLDS = {"confident": 0.6, "small": 0.1}


def logits_of(seed, scale=2.0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.normal(size=(12, 3)), jnp.float32)


STUDENT, TEACHER = logits_of(0), logits_of(1)
LABELS = jnp.asarray(np.random.default_rng(2).integers(0, 3, 12))
MASK = jnp.arange(12) < 10


def softmax(logits):
  powers = np.exp(np.asarray(logits, np.float64))
  return powers / powers.sum(1, keepdims=True)


DIFFERENCE = softmax(STUDENT / T) - softmax(TEACHER / T)


def passes(name, student=STUDENT, **options):
  options = {"threshold": THRESHOLDS.get(name), **options}
  return _domain_generalization.passes_filter(
    name, student, TEACHER, LABELS, temperature=T, **options
  )


def gradient(passing):
  """Gradient of the filtered divergence with respect to the student's logits."""

  def loss(student):
    filtered = _domain_generalization.filter_gradient(student, passing)
    return losses.knowledge_distillation(filtered, TEACHER, temperature=T, mask=MASK)

  value, found = jax.value_and_grad(loss)(STUDENT)
  expected = losses.knowledge_distillation(STUDENT, TEACHER, temperature=T, mask=MASK)
  assert value == expected  # the filter does not change it
  return np.asarray(found)


@pytest.mark.slow
def test_filters_pass_what_their_definition_says():
  labels, rows = np.asarray(LABELS), np.arange(12)
  unsure = DIFFERENCE[rows, labels] < 0
  probabilities = softmax(STUDENT)
  sure = (probabilities.argmax(1) == labels) & (probabilities.max(1) >= 0.6)
  expected = {
    "none": np.ones((12, 3), bool),
    "saturated": np.repeat(unsure[:, None], 3, 1),
    "confident": np.repeat(~sure[:, None], 3, 1),
    "small": np.abs(DIFFERENCE) >= 0.1,
  }
  for name, entries in expected.items():
    np.testing.assert_array_equal(passes(name), entries)
    if name != "none":
      assert 0 < entries.mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "saturated", "confident", "small"])
def test_gradient_is_that_of_distillation_where_it_passes_and_zero_elsewhere(name):
  found, passing = gradient(passes(name)), np.asarray(passes(name))
  plain = T * DIFFERENCE * np.asarray(MASK)[:, None] / 10
  np.testing.assert_allclose(found[passing], plain[passing], atol=1e-6)
  assert (found[~passing] == 0).all()
  whole = gradient(jnp.ones((12, 3), bool))
  np.testing.assert_array_equal(found[passing], whole[passing])


@pytest.mark.slow
def test_filter_that_passes_nothing_leaves_no_gradient():
  assert (gradient(passes("small", threshold=1.1)) == 0).all()
  assert (gradient(jnp.zeros((12, 3), bool)) == 0).all()


@pytest.mark.slow
def test_filters_follow_the_student_and_the_teacher():
  assert not passes("saturated", TEACHER).any()
  sure = 9.0 * jax.nn.one_hot(LABELS, 3)
  assert not passes("confident", sure, threshold=None).any()
  assert passes("confident", 0.1 * sure, threshold=None).all()
  assert not passes("small", TEACHER + 0.001, threshold=None).any()


# The method ------------------------------------------------------------------


@pytest.fixture
def teacher(network):
  model = network(width=4)
  variables = capture.init(model, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.Network(model, variables)


def _steps(method, batches):
  """State and metrics after an update for each batch."""
  state = method.init(jax.random.key(0), batches[0]["image"])
  update, history = jax.jit(method.update), []
  for batch in batches:
    state, metrics = update(state, batch, method.constants)
    history.append(metrics)
  return state, history


def _make(make, network, teacher, **options):
  return make(network(), teacher, optax.sgd(0.1), axis_name=None, **options)


@pytest.mark.slow
def test_without_a_filter_it_is_knowledge_distillation(network, teacher, batches):
  plain = _make(
    methods.knowledge_distillation,
    network,
    teacher,
    temperature=T,
    weight=0.7,
    label_weight=0.3,
  )
  none = _make(
    methods.filtered_distillation, network, teacher, temperature=T, label_weight=0.3
  )
  expected, _ = _steps(plain, batches)
  actual, history = _steps(none, batches)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    actual.params,
    expected.params,
  )
  assert [float(metrics["kept"]) for metrics in history] == [1, 1, 1]


@pytest.mark.slow
def test_closed_filter_leaves_the_labels_alone(network, teacher, batches):
  closed = _make(
    methods.filtered_distillation,
    network,
    teacher,
    gradient_filter="random",
    keep_rate=0.0,
  )
  labels = _make(
    methods.knowledge_distillation, network, teacher, weight=0.0, label_weight=0.5
  )
  expected, _ = _steps(labels, batches)
  actual, history = _steps(closed, batches)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    actual.params,
    expected.params,
  )
  assert history[0]["kept"] == 0


@pytest.mark.slow
def test_kept_is_the_share_of_real_rows_that_pass(network, teacher, batches):
  method = _make(
    methods.filtered_distillation,
    network,
    teacher,
    gradient_filter="saturated",
    temperature=T,
  )
  batch = batches[2]  # 11 real rows
  state = method.init(jax.random.key(0), batch["image"])
  variables = {"params": state.params["student"], **state.collections}
  student, _ = network().apply(
    variables, batch["image"], train=True, mask=batch["mask"], mutable=["batch_stats"]
  )
  teacher_logits = teacher.model.apply(teacher.variables, batch["image"])
  difference = softmax(student / T) - softmax(teacher_logits / T)
  rows = difference[np.arange(16), np.asarray(batch["label"])] < 0
  _, history = _steps(method, [batch])
  np.testing.assert_allclose(history[0]["kept"], rows[:11].mean(), rtol=1e-6)


@pytest.mark.slow
def test_random_rows_are_new_in_every_step_at_the_rate_of_its_schedule(
  network, teacher, batches
):
  method = _make(
    methods.filtered_distillation,
    network,
    teacher,
    gradient_filter="random",
    keep_rate=lambda step: jnp.where(step < 30, 0.25, 1.0),
  )
  _, history = _steps(method, [batches[0]] * 32)
  kept = [float(metrics["kept"]) for metrics in history]
  assert kept[30:] == [1, 1]
  assert len(set(kept[:30])) > 3
  # 480 draws: a standard deviation of 0.02.
  np.testing.assert_allclose(np.mean(kept[:30]), 0.25, atol=0.08)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"gradient_filter": "f1"}, "gradient_filter: expected one of 'none', 'saturated'"),
    ({"temperature": 0.0}, "temperature: expected a number above 0"),
    ({"label_weight": 1.5}, r"label_weight: expected a share in \[0, 1\], got 1.5"),
    ({"keep_rate": -0.1}, r"keep_rate: expected a share in \[0, 1\], got -0.1"),
  ],
)
def test_impossible_settings_are_refused(network, teacher, options, match):
  with pytest.raises(ValueError, match=match):
    _make(methods.filtered_distillation, network, teacher, **options)

"""Distillation from a frozen teacher: terms, weights, what is learnt beside."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods

pytestmark = pytest.mark.optimizer
LAST = {"dense": "dense"}


@pytest.fixture
def teacher(network):
  model = network(width=4)
  variables = capture.init(model, jax.random.key(7), jnp.zeros((2, 8, 8, 1)))
  return methods.Network(model, variables)


def _first_step(make, network, teacher, batch, **options):
  """The state before, the state after and the metrics of one update."""
  method = make(network(), teacher, optax.sgd(0.1), axis_name=None, **options)
  state = method.init(jax.random.key(0), batch["image"])
  after, metrics = jax.jit(method.update)(state, batch, method.constants)
  return method, state, after, metrics


def _student_outputs(network, state, batch):
  variables = {"params": state.params["student"], **state.collections}
  (logits, taps), _ = capture.apply_with_taps(
    network(),
    variables,
    batch["image"],
    train=True,
    mask=batch["mask"],
    mutable=["batch_stats"],
  )
  return logits, taps


def test_knowledge_distillation_is_its_loss_beside_the_labels(
  network, teacher, batches
):
  batch = batches[2]
  _, state, _, metrics = _first_step(
    methods.knowledge_distillation,
    network,
    teacher,
    batch,
    temperature=2.0,
    weight=0.9,
    label_weight=0.1,
  )
  logits, _ = _student_outputs(network, state, batch)
  soft = losses.knowledge_distillation(
    logits,
    teacher.model.apply(teacher.variables, batch["image"]),
    temperature=2.0,
    mask=batch["mask"],
  )
  hard = losses.cross_entropy(logits, batch["label"], mask=batch["mask"])
  np.testing.assert_allclose(metrics["loss/logits"], soft, rtol=1e-4)
  np.testing.assert_allclose(metrics["loss"], 0.9 * soft + 0.1 * hard, rtol=1e-4)


def test_hint_learns_its_projection_and_does_not_export_it(network, teacher, batches):
  method, state, after, metrics = _first_step(
    methods.hint, network, teacher, batches[0], pairs=LAST
  )
  kernel = state.params["learnt"]["dense"]["kernel"]
  assert kernel.shape == (16, 32)
  assert np.abs(after.params["learnt"]["dense"]["kernel"] - kernel).max() > 0
  exported = method.export(after)["network"].variables
  assert set(exported["params"]) == set(teacher.variables["params"])
  _, taps = _student_outputs(network, state, batches[0])
  _, teacher_taps = capture.apply_with_taps(*teacher, batches[0]["image"])
  projection = state.params["learnt"]["dense"]
  projected = taps["dense"] @ projection["kernel"] + projection["bias"][None]
  expected = ((teacher_taps["dense"] - projected) ** 2).sum(1).mean()
  np.testing.assert_allclose(metrics["loss/dense"], expected, rtol=1e-4)


def test_similarity_preserving_is_its_loss_on_every_pair(network, teacher, batches):
  batch = batches[2]
  pairs = {"block_1": "block_2", "dense": "dense"}
  _, state, _, metrics = _first_step(
    methods.similarity_preserving, network, teacher, batch, pairs=pairs, weight=5.0
  )
  logits, taps = _student_outputs(network, state, batch)
  _, teacher_taps = capture.apply_with_taps(*teacher, batch["image"])
  total = losses.cross_entropy(logits, batch["label"], mask=batch["mask"])
  for tap, teacher_tap in pairs.items():
    term = losses.similarity_preserving(
      taps[tap], teacher_taps[teacher_tap], mask=batch["mask"]
    )
    np.testing.assert_allclose(metrics[f"loss/{tap}"], term, rtol=1e-4)
    total += 5.0 * term
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)


@pytest.mark.parametrize(
  ("make", "options"),
  [
    (methods.hint, {}),
    (methods.similarity_preserving, {}),
    (methods.information_flow, {"weights": {"block_2": 2.0, "dense": 1.0}}),
  ],
)
def test_the_order_of_pairs_changes_nothing(make, options, network, teacher, batches):
  pairs = {"block_2": "block_1", "dense": "dense"}
  first, second = (
    _first_step(
      make,
      network,
      teacher,
      batches[0],
      **{name: order(option) for name, option in {**options, "pairs": pairs}.items()},
    )[-1]
    for order in (dict, lambda option: dict(reversed(option.items())))
  )
  for name, value in first.items():
    np.testing.assert_allclose(second[name], value, rtol=1e-5, err_msg=name)


def test_unrelated_similarities_are_those_of_the_neighbours(network, teacher, batches):
  batch = batches[0]
  options = {"pairs": LAST, "unrelated": True}
  _, state, _, metrics = _first_step(
    methods.similarity_preserving, network, teacher, batch, **options
  )
  _, taps = _student_outputs(network, state, batch)
  _, teacher_taps = capture.apply_with_taps(*teacher, batch["image"])
  moved = jnp.roll(teacher_taps["dense"], 1, axis=0)
  expected = losses.similarity_preserving(taps["dense"], moved)
  np.testing.assert_allclose(metrics["loss/dense"], expected, rtol=1e-4)


@pytest.mark.parametrize(
  ("make", "options", "match"),
  [
    (methods.hint, {"pairs": {}}, "pairs: expected at least one student tap"),
    (methods.hint, {"pairs": LAST, "weight": -1.0}, "weight of dense: expected 0"),
    (
      methods.hint,
      {"pairs": LAST, "weight": math.nan},
      "weight of dense: expected a finite number, got nan",
    ),
    (
      methods.knowledge_distillation,
      {"label_weight": math.inf},
      "weight of labels: expected a finite number, got inf",
    ),
    (
      methods.knowledge_distillation,
      {"temperature": -1.0},
      "temperature: expected",
    ),
    (
      methods.knowledge_distillation,
      {"label_weight": -0.1},
      "weight of labels: expected 0 or above, got -0.1",
    ),
    (
      methods.similarity_preserving,
      {"pairs": {}},
      "pairs: expected at least one student tap",
    ),
  ],
)
def test_impossible_settings_are_refused(network, teacher, make, options, match):
  with pytest.raises(ValueError, match=match):
    make(network(), teacher, optax.sgd(0.1), axis_name=None, **options)


def test_methods_of_a_callers_own_terms(network, teacher, batches):
  def terms(student, teacher, batch, params):
    del params
    return {
      "cka": losses.linear_cka(
        student.taps["dense"], teacher.taps["block_2"], mask=batch["mask"]
      )
    }

  _, _, _, metrics = _first_step(
    methods.distillation,
    network,
    teacher,
    batches[2],
    terms=terms,
    weights={"cka": 2.0},
    taps=(("dense",), ("block_2",)),
  )
  np.testing.assert_allclose(metrics["loss"], 2 * metrics["loss/cka"], rtol=1e-6)

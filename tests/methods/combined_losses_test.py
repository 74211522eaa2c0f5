"""Distillation by several named losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import schedules
from tests.methods.first_step import first_step
from tests.methods.first_step import student_outputs

pytestmark = pytest.mark.optimizer
IMAGE = {"image_shape": (8, 8, 1)}


def _losses(network, teacher, batch, **options):
  return first_step(
    methods.combined_losses, network, teacher, batch, **IMAGE, **options
  )


@pytest.mark.slow
def test_the_loss_is_the_weighted_sum_of_its_terms(network, teacher, batches):
  batch = batches[2]
  terms = [
    methods.LossTerm("kd", 0.9, {"temperature": 2.0}),
    methods.LossTerm("pkt", schedules.warmup(4.0, 2), taps={"dense": "block_2"}),
    methods.LossTerm("at", 100.0),
    methods.LossTerm("kd", 0.5, {"temperature": schedules.warmup(8.0, 2)}),
  ]
  method, state, _, metrics = _losses(
    network, teacher, batch, losses=terms, label_weight=0.1, label_smoothing=0.2
  )
  logits, taps = student_outputs(network, state, batch)
  theirs = methods.forward(
    teacher.model, teacher.variables, batch, taps=("block_1",), key=jax.random.key(0)
  )
  del theirs
  expected = sum(
    metrics[f"weight/{name}"] * metrics[f"loss/{name}"]
    for name in ("kd", "pkt", "at", "kd_2", "labels")
  )
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
  assert metrics["weight/pkt"] == 2
  smoothed = losses.cross_entropy(
    logits, batch["label"], smoothing=0.2, mask=batch["mask"]
  )
  np.testing.assert_allclose(metrics["loss/labels"], smoothed, rtol=1e-6)
  assert metrics["loss/kd"] != metrics["loss/kd_2"]
  assert method.teacher is not None
  assert method.teacher.taps == ("block_2", "block_1")
  del taps


@pytest.mark.slow
def test_what_losses_learn_is_trained_beside_the_student(network, teacher, batches):
  terms = [methods.LossTerm("vid"), methods.LossTerm("ft"), methods.LossTerm("kd")]
  _, state, after, metrics = _losses(network, teacher, batches[2], losses=terms)
  before, after = state.params["learnt"], after.params["learnt"]
  assert before.keys() == {"vid", "ft"}
  assert len(before["vid"]) == 2, "one a map"
  changed = jax.tree.map(lambda old, new: bool((old != new).any()), before, after)
  assert all(jax.tree.leaves(changed["ft"][0]))
  assert any(jax.tree.leaves(changed["vid"]))
  assert metrics["weight/ft/reconstruction"] == 1
  assert metrics["loss/ft/reconstruction"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.loss_names())
def test_every_named_loss_is_traced_with_its_options(name, network, teacher, batches):
  loss = methods.loss_by_name(name)
  if loss.taps == "tokens":
    model = models.by_name("digits_vit:16", num_classes=3)
    network = lambda width: model
    variables = capture.init(model, jax.random.key(0), batches[0]["image"])
    teacher = methods.Network(model, variables)
  terms = [methods.LossTerm(name)]
  method = methods.combined_losses(
    network(width=4 if name in ("fsp", "hcl", "kdsvd") else 2),
    teacher,
    optax.sgd(1e-3),
    losses=terms,
    num_examples=40,
    axis_name=None,
    **IMAGE,
  )
  batch = batches[2] | {"index": jnp.arange(16)}
  state = jax.eval_shape(method.init, jax.random.key(0), batch["image"])
  _, metrics = jax.eval_shape(method.update, state, batch, method.constants)
  assert metrics[f"loss/{name}"].shape == ()
  learns = loss.init is not None
  assert learns == bool(state.params["learnt"])


@pytest.mark.parametrize(
  ("given", "match"),
  [
    ({}, "losses: expected at least one loss, got none"),
    (
      {"pk": 1.0},
      "losses: expected names of losses, of kd, .*, got 'pk'; did you mean pkt",
    ),
    ({"kd": -1.0}, "weight of kd: expected 0 or above, got -1.0"),
    (
      [methods.LossTerm("kd", options={"temprature": 2})],
      "losses: kd: expected options of temperature, .*got temprature",
    ),
    (
      [methods.LossTerm("kd", taps="pooled")],
      "losses: kd: taps: expected none, as this loss compares logits",
    ),
    (
      [methods.LossTerm("pkt", taps={"dens": "dense"})],
      "losses: pkt: taps: expected taps of the student, of block_1, .*got dens",
    ),
    (
      [methods.LossTerm("pkt", taps={"dense": "x"})],
      "losses: pkt: taps: expected taps of the teacher, of .*labelled_posterior, got x",
    ),
    (
      [methods.LossTerm("pkt", taps=[("dense",)])],
      r"losses: pkt: taps: expected pairs \(student tap, teacher tap\), .*'dense'",
    ),
    (
      [methods.LossTerm("pkt", taps=("dense", "dense"))],
      r"losses: pkt: taps: expected pairs \(student tap, teacher tap\), .*'dense'",
    ),
    (
      [methods.LossTerm("kd", options={"standardize": schedules.warmup(1.0, 2)})],
      "losses: kd: standardize: expected true or false, got <function",
    ),
    (
      [methods.LossTerm("pkt", taps="map_3")],
      "losses: pkt: taps: expected a student with map_3, got one with the taps ",
    ),
    (
      [methods.LossTerm("pkt", taps="maps_3")],
      "losses: pkt: taps: expected pairs of names, or one of pooled",
    ),
  ],
)
def test_impossible_losses_are_refused(network, teacher, given, match):
  with pytest.raises(ValueError, match=match):
    methods.combined_losses(
      network(), teacher, optax.sgd(0.1), losses=given, axis_name=None, **IMAGE
    )


@pytest.mark.slow
def test_losses_that_learn_read_posteriors_too(network, teacher, batches):
  terms = [
    methods.LossTerm("hint", taps={"dense": "posterior"}),
    methods.LossTerm("crd", options={"width": 4}, taps={"dense": "labelled_posterior"}),
    methods.LossTerm("mlkd", options={"temperatures": [schedules.warmup(8.0, 2), 2]}),
  ]
  method = methods.combined_losses(
    network(), teacher, optax.sgd(0.1), losses=terms, axis_name=None, **IMAGE
  )
  state = jax.eval_shape(method.init, jax.random.key(0), batches[0]["image"])
  heads = state.params["learnt"]["crd"][0]
  assert heads["teacher"]["kernel"].shape == (3, 4), "classes, width"
  jax.eval_shape(method.update, state, batches[0], method.constants)


def _with_relation(relation, network, teacher, batch):
  """Traces a step with a relation of patches that is a function."""
  term = methods.LossTerm("patch_relations", options={"relation": relation})
  method = methods.combined_losses(
    network(), teacher, optax.sgd(0.1), losses=[term], axis_name=None, **IMAGE
  )
  state = jax.eval_shape(method.init, jax.random.key(0), batch["image"])
  return jax.eval_shape(method.update, state, batch, method.constants)


@pytest.mark.slow
def test_an_option_that_is_a_function_is_no_schedule(network, teacher, batches):
  _, metrics = _with_relation(losses.rkd_angle, network, teacher, batches[0])
  assert "loss/patch_relations" in metrics


def test_errors_of_a_step_name_the_loss(network, teacher, batches):
  def relation(student, teacher, *, mask):
    del teacher, mask
    return student.sum() if student[0, 0] > 0 else 0.0

  with pytest.raises(TypeError, match="losses: patch_relations: "):
    _with_relation(relation, network, teacher, batches[0])

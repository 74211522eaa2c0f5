"""Distillation from a frozen teacher: terms, weights, what is learnt beside."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import losses
from flowkd_jax import methods
from tests.methods.first_step import first_step

pytestmark = pytest.mark.optimizer
LAST = {"dense": "dense"}


@pytest.mark.slow
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
    first_step(
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


@pytest.mark.slow
def test_methods_of_a_callers_own_terms(network, teacher, batches):
  def terms(student, teacher, batch, params):
    del params
    return {
      "cka": losses.linear_cka(
        student.taps["dense"], teacher.taps["block_2"], mask=batch["mask"]
      )
    }

  _, _, _, metrics = first_step(
    methods.distillation,
    network,
    teacher,
    batches[2],
    terms=terms,
    weights={"cka": 2.0},
    taps=(("dense",), ("block_2",)),
  )
  np.testing.assert_allclose(metrics["loss"], 2 * metrics["loss/cka"], rtol=1e-6)


@pytest.mark.slow
def test_terms_get_the_step_a_key_and_their_state_on_every_device(
  network, teacher, batches
):
  def terms(student, teacher, batch, params, *, step, key, state):
    del params, batch
    draw = jax.random.uniform(key)
    counted = {"calls": state["calls"] + 1}
    terms = {"step": step.astype(jnp.float32), "draw": draw, "calls": state["calls"]}
    logits = (student.logits - teacher.logits).mean()
    return {"logits": logits, **terms}, counted

  method = methods.distillation(
    network("batch"),
    teacher,
    optax.sgd(0.1),
    terms=terms,
    weights={"logits": 1.0},
    params=methods.LossParams(
      lambda *_: {}, state=lambda *_: {"calls": jnp.float32(5)}
    ),
  )
  devices = jax.local_device_count()
  batch = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batches[0].items()}
  state = method.init(jax.random.key(0), batches[0]["image"])
  update = jax.pmap(
    method.update, axis_name="batch", in_axes=(None, 0, None), out_axes=0
  )
  after, metrics = update(state, batch, method.constants)
  metrics = jax.tree.map(np.asarray, metrics)
  assert metrics["step"][0] == 0
  assert metrics["calls"][0] == 5
  assert len(set(metrics["draw"].tolist())) == 1
  np.testing.assert_array_equal(after.collections["loss_state"]["calls"], 6)
  exported = method.export(jax.tree.map(lambda leaf: leaf[0], after))["network"]
  assert "loss_state" not in exported.variables

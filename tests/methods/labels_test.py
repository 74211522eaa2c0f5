"""Rows without a label, and labels that are no class, in methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.methods import _domain_generalization
from flowkd_jax.methods import _federated
from flowkd_jax.methods import _latent_generator
from flowkd_jax.methods import _targets
from flowkd_jax.methods._distillation import Outputs

LABELS = np.array([0, -1, 2, -100], np.int32)
LABELLED = np.array([True, False, True, False])


def test_labelled_posterior_is_the_posterior_without_a_label():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
  teacher = Outputs(logits, {})
  compared = jax.jit(
    lambda labels: _targets.output(teacher, labels, "labelled_posterior")
  )
  posterior = jax.nn.softmax(logits)
  mixed = (posterior + np.eye(3, dtype=np.float32)[LABELS % 3]) / 2
  expected = np.where(LABELLED[:, None], mixed, posterior)
  np.testing.assert_allclose(compared(LABELS), expected, rtol=1e-6)
  beyond = compared(np.array([0, 3, 2, 1], np.int32))
  assert np.isnan(beyond).tolist() == [
    [False] * 3,
    [True] * 3,
    [False] * 3,
    [False] * 3,
  ]


@pytest.mark.slow
@pytest.mark.optimizer
def test_labelled_posterior_of_a_label_beyond_the_classes_makes_the_loss_nan(
  network, batches
):
  teacher = network(width=4)
  batch = batches[2]  # row 12 is padding
  variables = capture.init(teacher, jax.random.key(7), batch["image"])
  method = methods.information_flow(
    network(),
    methods.Network(teacher, variables),
    optax.sgd(0.1),
    pairs={"dense": methods.LABELLED_POSTERIOR},
    weights={"dense": 1.0},
    axis_name=None,
  )
  state = method.init(jax.random.key(0), batch["image"])
  step = jax.jit(
    lambda labels: method.update(state, {**batch, "label": labels}, method.constants)
  )
  expected = step(batch["label"])[1]["loss"]
  assert step(batch["label"].at[12].set(3))[1]["loss"] == expected
  assert np.isfinite(step(batch["label"].at[2].set(-1))[1]["loss"])
  assert np.isnan(step(batch["label"].at[2].set(3))[1]["loss"])


@pytest.mark.parametrize("name", ["saturated", "confident"])
def test_filters_let_rows_without_a_label_pass(name):
  student = jnp.asarray(10 * np.eye(4, 3), jnp.float32)
  passes = _domain_generalization.passes_filter(
    name, student, -student, jnp.asarray(LABELS), temperature=1.0
  )
  closed = _domain_generalization.passes_filter(
    name, student, -student, jnp.zeros(4, jnp.int32), temperature=1.0
  )
  assert not closed[0].any()
  assert passes[1].all()
  assert passes[3].all()
  with pytest.raises(ValueError, match="label: expected classes from 0 to 2"):
    _domain_generalization.passes_filter(
      name, student, student, np.full(4, 3), temperature=1.0
    )


def test_federated_counts_leave_out_rows_without_a_label():
  batch = {
    "label": jnp.asarray(LABELS).reshape(1, 2, 2),
    "mask": jnp.array([[[True, True], [False, True]]]),
  }
  counts = _federated._label_counts(batch, 3)
  np.testing.assert_array_equal(counts, [[1, 0, 0]])


@pytest.mark.slow
def test_ensemble_cross_entropy_leaves_out_rows_without_a_label():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 3)), jnp.float32)
  counts = jnp.array([[1.0, 2, 3], [3, 2, 1]])
  loss = jax.jit(_latent_generator.ensemble_cross_entropy)
  expected = loss(logits[:, LABELLED], LABELS[LABELLED], counts)
  np.testing.assert_allclose(loss(logits, LABELS, counts), expected, rtol=1e-6)
  assert np.isnan(loss(logits, np.array([0, 1, 2, 3], np.int32), counts))


@pytest.mark.slow
def test_generator_makes_no_latent_of_a_label_that_is_no_class():
  model = models.LatentGenerator(latent=2, num_classes=3, hidden=4)
  noise = jnp.ones((4, 2))
  variables = model.init(jax.random.key(0), noise, jnp.zeros(4, jnp.int32))
  latents = jax.jit(model.apply)(variables, noise, jnp.array([0, 3, -1, 2]))
  assert np.isnan(latents).all(1).tolist() == [False, True, False, False]
  with pytest.raises(ValueError, match="labels: expected classes from 0 to 2.* row 1"):
    model.apply(variables, noise, np.array([0, 3, 1, 2]))

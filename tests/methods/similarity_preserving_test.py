"""Similarity-preserving distillation and its control."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from tests.methods.first_step import first_step
from tests.methods.first_step import student_outputs

pytestmark = pytest.mark.optimizer
LAST = {"dense": "dense"}


@pytest.mark.slow
def test_similarity_preserving_is_its_loss_on_every_pair(network, teacher, batches):
  batch = batches[2]
  pairs = {"block_1": "block_2", "dense": "dense"}
  _, state, _, metrics = first_step(
    methods.similarity_preserving, network, teacher, batch, pairs=pairs, weight=5.0
  )
  logits, taps = student_outputs(network, state, batch)
  _, teacher_taps = capture.apply_with_taps(*teacher, batch["image"])
  total = losses.cross_entropy(logits, batch["label"], mask=batch["mask"])
  for tap, teacher_tap in pairs.items():
    term = losses.similarity_preserving(
      taps[tap], teacher_taps[teacher_tap], mask=batch["mask"]
    )
    np.testing.assert_allclose(metrics[f"loss/{tap}"], term, rtol=1e-4)
    total += 5.0 * term
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)


@pytest.mark.slow
def test_unrelated_similarities_are_those_of_the_neighbours(network, teacher, batches):
  batch = batches[0]
  options = {"pairs": LAST, "unrelated": True}
  _, state, _, metrics = first_step(
    methods.similarity_preserving, network, teacher, batch, **options
  )
  _, taps = student_outputs(network, state, batch)
  _, teacher_taps = capture.apply_with_taps(*teacher, batch["image"])
  moved = jnp.roll(teacher_taps["dense"], 1, axis=0)
  expected = losses.similarity_preserving(taps["dense"], moved)
  np.testing.assert_allclose(metrics["loss/dense"], expected, rtol=1e-4)

"""Knowledge distillation: its loss beside the labels."""

import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax import methods
from tests.methods.first_step import first_step
from tests.methods.first_step import student_outputs

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_knowledge_distillation_is_its_loss_beside_the_labels(
  network, teacher, batches
):
  batch = batches[2]
  _, state, _, metrics = first_step(
    methods.knowledge_distillation,
    network,
    teacher,
    batch,
    temperature=2.0,
    weight=0.9,
    label_weight=0.1,
  )
  logits, _ = student_outputs(network, state, batch)
  soft = losses.knowledge_distillation(
    logits,
    teacher.model.apply(teacher.variables, batch["image"]),
    temperature=2.0,
    mask=batch["mask"],
  )
  hard = losses.cross_entropy(logits, batch["label"], mask=batch["mask"])
  np.testing.assert_allclose(metrics["loss/logits"], soft, rtol=1e-4)
  np.testing.assert_allclose(metrics["loss"], 0.9 * soft + 0.1 * hard, rtol=1e-4)

"""Hint learning: its loss, its linear maps."""

import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from tests.methods.first_step import first_step
from tests.methods.first_step import student_outputs

pytestmark = pytest.mark.optimizer
LAST = {"dense": "dense"}


@pytest.mark.slow
def test_hint_learns_its_projection_and_does_not_export_it(network, teacher, batches):
  method, state, after, metrics = first_step(
    methods.hint, network, teacher, batches[0], pairs=LAST
  )
  kernel = state.params["learnt"]["dense"]["kernel"]
  assert kernel.shape == (16, 32)
  assert np.abs(after.params["learnt"]["dense"]["kernel"] - kernel).max() > 0
  exported = method.export(after)["network"].variables
  assert set(exported["params"]) == set(teacher.variables["params"])
  _, taps = student_outputs(network, state, batches[0])
  _, teacher_taps = capture.apply_with_taps(*teacher, batches[0]["image"])
  projection = state.params["learnt"]["dense"]
  projected = taps["dense"] @ projection["kernel"] + projection["bias"][None]
  expected = ((teacher_taps["dense"] - projected) ** 2).sum(1).mean()
  np.testing.assert_allclose(metrics["loss/dense"], expected, rtol=1e-4)

"""The placeholder of a teacher whose outputs were recorded."""

import jax.numpy as jnp
import pytest

from flowkd_jax import capture
from flowkd_jax.teacher_cache import _recorded


def test_recorded_teacher_has_the_taps_and_shapes_of_its_cache():
  shapes = {"taps/block": [4, 4, 2], "logits": [3], "taps/dense": [5]}
  network = _recorded.recorded_teacher({"row_shapes": shapes})
  assert network.model.taps == ("block", "dense")
  logits, taps = capture.apply_with_taps(*network, jnp.ones((2, 8, 8, 1)))
  assert logits.shape == (2, 3)
  assert {name: tap.shape for name, tap in taps.items()} == {
    "block": (2, 4, 4, 2),
    "dense": (2, 5),
  }
  assert not any(array.any() for array in (logits, *taps.values()))


def test_outputs_without_logits_are_refused():
  with pytest.raises(ValueError, match='expected "logits" among them, got taps/dense'):
    _recorded.recorded_teacher({"row_shapes": {"taps/dense": [5]}})

"""Relational distillation by hand: distances, angles, reductions, duplicates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses

LINE = jnp.array([[0.0], [1.0], [3.0]])
EVEN = jnp.array([[0.0], [1.0], [2.0]])
RIGHT = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
EQUAL = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("reduction", "divisor"), [("mean", 6), ("rows", 3), ("matrix", 9)]
)
def test_rkd_distance_of_three_rows_is_that_by_hand(reduction, divisor):
  # Distances 1, 3, 2 with mean 2, against 1, 2, 1 with mean 4 / 3; each pair twice.
  gaps = np.array([1 / 2 - 3 / 4, 3 / 2 - 6 / 4, 2 / 2 - 3 / 4])
  expected = 2 * (gaps**2 / 2).sum() / divisor
  value = losses.rkd_distance(LINE, EVEN, reduction=reduction)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("reduction", "divisor"), [("mean", 6), ("rows", 3), ("matrix", 27)]
)
def test_rkd_angle_of_three_rows_is_that_by_hand(reduction, divisor):
  # A 3-4-5 triangle against one of angles of 60 degrees; each angle twice.
  gaps = np.array([0, 3 / 5, 4 / 5]) - 1 / 2
  expected = 2 * (gaps**2 / 2).sum() / divisor
  value = losses.rkd_angle(RIGHT, EQUAL, reduction=reduction)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.slow
def test_large_gaps_count_linearly():
  # One row is apart: its relative distances are 2, all others 0.
  student = jnp.array([[0.0], [0.0], [0.0], [1.0]])
  teacher = jnp.array([[1.0], [0.0], [0.0], [0.0]])
  gaps = np.array([2.0, 2.0, 2.0, 2.0])  # row 0 or 3 with 1 or 2; 0 elsewhere
  expected = (gaps - 0.5).sum() / 6
  np.testing.assert_allclose(losses.rkd_distance(student, teacher), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.rkd_distance, losses.rkd_angle])
def test_duplicates_have_finite_gradients_and_rows_all_alike_none(loss):
  student = jnp.concatenate([RIGHT, RIGHT[:1]])
  teacher = jnp.concatenate([EQUAL, EQUAL[1:2]])
  gradient = jax.jit(jax.grad(loss))
  assert np.isfinite(gradient(student, teacher)).all()
  assert not gradient(jnp.ones((4, 2)), teacher).any()


@pytest.mark.parametrize("loss", [losses.rkd_distance, losses.rkd_angle])
def test_other_reductions_are_refused(loss):
  with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'rows'"):
    loss(RIGHT, EQUAL, reduction="sum")

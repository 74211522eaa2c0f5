"""Transformed teacher matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


def _check(golden, weighted, block_size=None):
  def loss(student, teacher, temperature):
    return losses.transformed_teacher_matching(
      student,
      teacher,
      temperature=temperature,
      weighted=weighted,
      block_size=block_size,
    )

  value, gradient = jax.jit(jax.value_and_grad(loss))(
    golden["student"], golden["teacher"], 1 / golden["exponent"]
  )
  np.testing.assert_allclose(value, golden["value"], rtol=1e-9)
  golden_files.assert_gradient(gradient, golden["grad_student"])


@golden_files.second_set("ttm")
def test_transformed_teacher_is_that_of_the_authors(golden, x64):
  _check(golden, weighted=False)


@golden_files.second_set("wttm")
def test_weighted_rows_are_those_of_the_authors(golden, x64):
  _check(golden, weighted=True)
  _check(golden, weighted=True, block_size=7)


def test_weights_have_their_gradient_in_teacher_and_temperature(x64):
  rng = np.random.default_rng(0)
  student, teacher = (rng.standard_normal((3, 4)) for _ in range(2))
  direction = rng.standard_normal((3, 4))

  def along(step):
    return losses.transformed_teacher_matching(student, teacher + step * direction)

  def at(temperature):
    return losses.transformed_teacher_matching(
      student, teacher + 5, temperature=temperature
    )

  for function, point in ((along, 0.0), (at, 3.0)):
    slope = jax.grad(function)(point)
    difference = (function(point + 1e-6) - function(point - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_sure_and_undecided_teachers_are_finite(weighted):
  student = jnp.float32([[1e30, 0, -1e30], [0, 0, 0], [1, 2, 3]])
  teacher = jnp.float32([[0, 0, 0], [1e30, 0, -1e30], [5, 5, -1e30]])

  def loss(student, teacher):
    return losses.transformed_teacher_matching(student, teacher, weighted=weighted)

  value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(student, teacher)
  assert np.isfinite(value)
  assert all(np.isfinite(gradient).all() for gradient in gradients)

"""Gaussian Wasserstein distance: the authors' values, cells, extreme maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


def _maps(shape=(3, 6, 5, 2), seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_authors_values_and_gradients_are_reproduced(index, x64):
  golden = golden_files.load("wkd_f_1")
  sides = (golden_files.channels_last(golden[x]) for x in ("student", "teacher"))
  grid = int(golden["grids"][index])
  loss = functools.partial(
    losses.gaussian_wasserstein,
    grid=grid,
    mean_weight=float(golden["mean_cov_ratio"]),
    epsilon=float(golden["epsilon"]),
  )
  value, gradient = jax.jit(jax.value_and_grad(loss))(*sides)
  golden_files.assert_near(value, golden["values"][index])
  name = "grad_student" if grid == 1 else f"grad_student_grid{grid}"
  golden_files.assert_near(gradient, golden_files.channels_last(golden[name]))


def test_cells_are_those_of_adaptive_pooling_each_on_its_own_map():
  student, teacher = _maps(), 2 * _maps((3, 4, 7, 2), seed=1)

  def moments(maps):
    height, width = maps.shape[1:3]
    rows = [(i * height // 3, -(-(i + 1) * height // 3)) for i in range(3)]
    columns = [(i * width // 2, -(-(i + 1) * width // 2)) for i in range(2)]
    cells = [maps[:, a:b, c:d] for a, b in rows for c, d in columns]
    means = np.stack([cell.mean((1, 2)) for cell in cells])
    variances = np.stack([cell.var((1, 2), ddof=1) for cell in cells])
    return means, np.sqrt(variances + 1e-3)

  (means, deviations), (other_means, others) = moments(student), moments(teacher)
  expected = 3 * (means - other_means) ** 2 + (deviations - others) ** 2
  actual = losses.gaussian_wasserstein(
    student, teacher, grid=(3, 2), mean_weight=3.0, epsilon=1e-3
  )
  np.testing.assert_allclose(actual, expected.sum(2).mean(), rtol=1e-5)


def test_a_cell_of_one_position_has_no_deviation():
  student, teacher = _maps(), _maps(seed=1)
  actual = losses.gaussian_wasserstein(student, teacher, grid=(6, 5), mean_weight=1.0)
  expected = ((student - teacher) ** 2).sum(3).mean()
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
def test_deviations_do_not_cancel_where_the_mean_is_large():
  student, teacher = _maps(), 2 * _maps(seed=1)
  deviations = functools.partial(losses.gaussian_wasserstein, grid=2, mean_weight=0.0)
  shift = np.float32(4096)
  np.testing.assert_allclose(
    deviations(student + shift, teacher + shift),
    deviations(student, teacher),
    rtol=2e-3,
  )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_gradient_is_finite_at_extreme_maps(scale):
  student = jnp.asarray(scale * _maps()).at[0].set(scale)
  loss = jax.jit(
    jax.value_and_grad(
      functools.partial(losses.gaussian_wasserstein, grid=4), argnums=(0, 1)
    )
  )
  for teacher in (_maps(seed=1), scale * _maps(seed=1)):
    value, gradients = loss(student, jnp.asarray(teacher))
    assert not np.isnan(value)
    assert all(np.isfinite(each).all() for each in gradients)


def test_gradient_of_huge_maps_is_in_proportion(x64):
  """Results in float64, where nothing overflows, and in float32."""
  student, teacher = 1e12 * _maps(), 1e12 * _maps(seed=1)
  evaluate = jax.jit(jax.grad(functools.partial(losses.gaussian_wasserstein, grid=2)))
  expected = 1e12 * evaluate(jnp.asarray(_maps()), jnp.asarray(_maps(seed=1)))
  golden_files.assert_near(evaluate(student, teacher), expected, 1e-4)


def test_wrong_grids_are_refused():
  maps = _maps()
  with pytest.raises(ValueError, match="more cells than student has .* 6 x 5, got 6"):
    losses.gaussian_wasserstein(maps, maps, grid=6)
  with pytest.raises(TypeError, match="grid: expected a whole number above 0"):
    losses.gaussian_wasserstein(maps, maps, grid=1.5)
  with pytest.raises(ValueError, match="grid: expected a number, or one for height"):
    losses.gaussian_wasserstein(maps, maps, grid=(1, 2, 3))

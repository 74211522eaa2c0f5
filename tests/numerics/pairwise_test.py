"""Geometry of all pairs of rows against NumPy, with its edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import pairwise


def _rows(scale=1.0):
  """Unrelated rows, one of zeros, a duplicate, and one far smaller."""
  rows = np.random.default_rng(0).standard_normal((6, 3))
  rows[1] = 0
  rows[3] = rows[2]
  rows[4] *= 1e-3
  return rows * scale


def _geometry(rows, *, columns_apart=False):
  points = pairwise.pair_points(rows, rows)
  columns = pairwise.pair_columns(points) if columns_apart else points
  positions = jnp.arange(len(rows), dtype=jnp.int32)
  return pairwise.pair_geometry(points, columns, positions)


@pytest.mark.parametrize("columns_apart", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_pair_geometry_is_that_of_numpy_at_every_scale(scale, columns_apart):
  rows = jnp.asarray(_rows(scale), jnp.float32)
  pairs = _geometry(rows, columns_apart=columns_apart)
  exact = np.asarray(rows, np.float64) / float(pairwise.unit_of(rows))
  squared = ((exact[:, None] - exact[None, :]) ** 2).sum(-1)
  norms = np.linalg.norm(exact, axis=1)
  products = norms[:, None] * norms[None, :]
  cosines = np.divide(
    exact @ exact.T, products, out=np.zeros_like(products), where=products > 0
  )
  expected_gaps = (1 - cosines) / 2
  np.fill_diagonal(expected_gaps, 0)
  np.testing.assert_allclose(pairs.squared_distances, squared, rtol=1e-4, atol=1e-12)
  np.testing.assert_allclose(pairs.cosine_gaps, expected_gaps, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(pairs.norm_products, products, rtol=1e-5)
  np.testing.assert_allclose(
    pairs.norm_sums, norms[:, None] + norms[None, :], rtol=1e-5
  )
  assert pairs.squared_distances[2, 3] == 0
  assert pairs.cosine_gaps[2, 3] == 0
  np.testing.assert_array_equal(pairs.same, np.eye(6, dtype=bool))


@pytest.mark.slow
def test_pair_geometry_of_duplicates_is_exactly_zero():
  rows = 3 + np.random.default_rng(2).standard_normal((20, 77))
  rows = jnp.asarray(np.concatenate([rows, rows]), jnp.float32)
  pairs = _geometry(rows)
  for matrix in (pairs.squared_distances, pairs.cosine_gaps):
    np.testing.assert_array_equal(np.diagonal(matrix, 20), 0)
    assert (np.diagonal(matrix, 1) > 0).all()


def test_pair_geometry_of_a_row_that_is_not_finite_is_nan_in_its_pairs():
  rows = jnp.asarray(_rows(), jnp.float32).at[5, 0].set(jnp.nan)
  squared = _geometry(rows).squared_distances
  assert np.isnan(squared[5, :5]).all()
  assert np.isnan(squared[:5, 5]).all()


@pytest.mark.slow
@pytest.mark.parametrize("real", [None, [True, False, True, True, True]])
def test_pair_means_are_means_over_the_real_columns(real):
  rows = jnp.asarray(np.delete(_rows(), 1, axis=0), jnp.float32)
  points = pairwise.pair_points(rows, rows)
  pairs = _geometry(rows)
  columns = pairwise.pair_columns(points)
  means = pairwise.pair_means(points, columns, None if real is None else np.array(real))
  for mean, matrix in (
    (means.cosine_gaps, pairs.cosine_gaps),
    (means.squared_distances, pairs.squared_distances),
  ):
    expected = np.average(matrix, axis=1, weights=real)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_valid_pairs_have_a_real_column_and_two_rows():
  same, real = jnp.eye(3, dtype=bool), jnp.array([True, False, True])
  np.testing.assert_array_equal(pairwise.valid_pairs(same, None), ~same)
  np.testing.assert_array_equal(
    pairwise.valid_pairs(same, real),
    [[False, False, True], [True, False, True], [True, False, False]],
  )
  np.testing.assert_array_equal(
    pairwise.valid_pairs(same, real, self_pairs=True), [[True, False, True]] * 3
  )


@pytest.mark.parametrize("exponent", [0.5, -0.5, 3.0, jnp.float32(0.5)])
def test_safe_power_is_zero_with_its_gradient_at_zero_and_keeps_nan(exponent):
  base = jnp.array([0.0, 4.0, jnp.nan])
  power = pairwise.safe_power(base, exponent)
  np.testing.assert_allclose(power, [0, 4.0 ** float(exponent), np.nan], rtol=1e-6)
  gradient = jax.grad(lambda x: pairwise.safe_power(x, exponent).sum())(base)
  slope = float(exponent) * 4.0 ** (float(exponent) - 1)
  np.testing.assert_allclose(gradient, [0, slope, np.nan], rtol=1e-6)


@pytest.mark.slow
def test_gram_has_the_gradient_of_the_product():
  rng = np.random.default_rng(1)
  rows, weights = (jnp.asarray(rng.standard_normal(s)) for s in ((4, 3), (4, 4)))
  value, gradient = jax.value_and_grad(lambda x: (pairwise.gram(x) * weights).sum())(
    rows
  )
  np.testing.assert_allclose(value, (np.asarray(rows) @ rows.T * weights).sum(), 1e-5)
  np.testing.assert_allclose(gradient, (weights + weights.T) @ rows, rtol=1e-5)

"""Kernels against float64 NumPy, and at the edges where such code goes wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics import pairwise


def _features(seed=0, shape=(12, 7)):
  return np.random.default_rng(seed).standard_normal(shape)


def _distances(x):
  x = x.astype(np.float64)
  return np.sqrt(((x[:, None] - x[None, :]) ** 2).sum(-1))


def _cosines(x):
  x = x.astype(np.float64)
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  return x @ x.T


def _expected(name, x):
  d = _distances(x)
  off = ~np.eye(len(x), dtype=bool)
  return {
    "cosine": (1 + _cosines(x)) / 2,
    "student_t": 1 / (1 + d),
    "rbf": np.exp(-(d**2) / 2),
    "adaptive_rbf": np.exp(-(d**2) / (2 * d[off].mean() ** 2)),
    "cauchy": 1 / (1 + d**2),
    "von_mises_fisher": np.exp(4 * (_cosines(x) - 1)),
  }[name]


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_kernel_equals_its_definition(name):
  x = _features()
  actual = jax.jit(kernels.by_name(name))(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(actual, _expected(name, x), rtol=2e-5)
  np.testing.assert_array_equal(np.diagonal(actual), 1.0)


@pytest.mark.parametrize("degree", [0.5, 1.0, 2.0, 3.0])
def test_student_t_takes_any_degree(degree):
  x = _features()
  actual = jax.jit(kernels.student_t(degree))(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(actual, 1 / (1 + _distances(x) ** degree), rtol=2e-5)


@pytest.mark.slow
def test_von_mises_fisher_is_the_gaussian_of_unit_rows():
  x = jnp.asarray(_features(), jnp.float32)
  actual = jax.jit(kernels.von_mises_fisher(9.0))(x)
  expected = jax.jit(kernels.rbf(1 / 3))(kernels.unit_rows(x))
  np.testing.assert_allclose(actual, expected, rtol=2e-5)
  with pytest.raises(ValueError, match="concentration: expected a number above 0"):
    kernels.von_mises_fisher(0.0)


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_kernel_works_under_vmap_over_taps(name):
  stacked = jnp.asarray(_features(shape=(3, 6, 5)), jnp.float32)
  kernel = jax.jit(kernels.by_name(name))
  expected = np.stack([kernel(tap) for tap in stacked])
  np.testing.assert_allclose(jax.vmap(kernel)(stacked), expected, rtol=1e-6)


def _geometry(x):
  points = pairwise.pair_points(x, x)
  return pairwise.pair_geometry(points, points, jnp.arange(x.shape[0]))


def _some_geometry(x):
  """Rows 3 to 6 against all."""
  columns = pairwise.pair_columns(pairwise.pair_points(x, x))
  return pairwise.pair_geometry(
    pairwise.pair_points(x[3:7], x), columns, jnp.arange(3, 7)
  )


@pytest.mark.parametrize("mean", [0.0, 10.0, 1000.0])
def test_distances_survive_a_large_common_mean(mean):
  x = (_features() + mean).astype(np.float32)
  actual = kernels.student_t()(jnp.asarray(x))
  np.testing.assert_allclose(actual, _expected("student_t", x), rtol=1e-3)


def test_cosine_keeps_its_signal_under_a_large_common_mean():
  x = (_features(shape=(12, 64)) + 1000).astype(np.float32)
  pairs = _geometry(jnp.asarray(x))
  expected = (1 - _cosines(x)) / 2
  assert expected.max() < 1e-5
  np.testing.assert_allclose(pairs.cosine_gaps, expected, rtol=1e-2, atol=1e-10)


def test_rows_of_very_different_norm_keep_their_digits():
  x = (_features() * np.logspace(-6, 6, 12)[:, None]).astype(np.float32)
  kernel = kernels.cosine()
  np.testing.assert_allclose(
    kernel(jnp.asarray(x)), _expected("cosine", x), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_kernel_is_computed_in_float32_whatever_comes_in(dtype):
  x = jnp.asarray(_features(), dtype)
  actual = kernels.student_t()(x)
  assert actual.dtype == jnp.float32
  expected = _expected("student_t", np.asarray(x, np.float64))
  np.testing.assert_allclose(actual, expected, rtol=2e-5)


@pytest.mark.slow
def test_geometry_of_some_rows_equals_that_of_all():
  x = jnp.asarray(_features(), jnp.float32)
  everything = jax.jit(_geometry)(x)
  some = jax.jit(_some_geometry)(x)
  for name in ("squared_distances", "cosine_gaps", "norm_products", "norm_sums"):
    np.testing.assert_allclose(
      getattr(some, name), getattr(everything, name)[3:7], rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_gradient_of_distances_is_exact_at_a_zero_row(x64):
  x = jnp.asarray(_features()).at[2].set(0)
  weights = jnp.asarray(_features(1, (12, 12)))

  def geometry(x):
    pairs = _geometry(x)
    return (weights * pairs.squared_distances).sum() * pairwise.unit_of(x) ** 2

  def direct(x):
    return (weights * ((x[:, None] - x[None, :]) ** 2).sum(-1)).sum()

  gradients = jax.jit(lambda x: (jax.grad(geometry)(x), jax.grad(direct)(x)))(x)
  np.testing.assert_allclose(*gradients, rtol=1e-9)


@pytest.mark.slow
def test_second_derivatives_are_exact(x64):
  x = jnp.asarray(_features(shape=(4, 3)))

  def geometry(x):
    pairs = _geometry(x)
    squared = pairs.squared_distances * pairwise.unit_of(x) ** 2
    return (squared * pairs.cosine_gaps).sum()

  def direct(x):
    unit = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    gaps = (1 - unit @ unit.T) / 2
    return (((x[:, None] - x[None, :]) ** 2).sum(-1) * gaps).sum()

  hessians = jax.jit(lambda x: (jax.hessian(geometry)(x), jax.hessian(direct)(x)))(x)
  np.testing.assert_allclose(*hessians, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("make", "name"),
  [
    *((kernels.by_name, name) for name in kernels.KERNELS),
    *((kernels.authors_kernel, name) for name in kernels.AUTHORS_KERNELS),
  ],
)
def test_kernel_and_gradient_are_finite_at_degenerate_rows(make, name, degenerate_rows):
  kernel = make(name)
  value_and_grad = jax.jit(jax.value_and_grad(lambda x: kernel(x).sum()))
  for case, rows in degenerate_rows.items():
    value, gradient = value_and_grad(rows)
    assert np.isfinite(value), case
    assert np.isfinite(gradient).all(), case


def test_bad_input_is_refused_with_what_was_expected():
  with pytest.raises(TypeError, match="expected a floating-point array, got .*int32"):
    kernels.cosine()(jnp.ones((2, 3), jnp.int32))
  with pytest.raises(ValueError, match=r"at least two axes, got shape \(3,\)"):
    kernels.cosine()(jnp.ones(3))
  with pytest.raises(ValueError, match="degree: expected a number above 0, got -1"):
    kernels.student_t(-1)
  with pytest.raises(ValueError, match="bandwidth"):
    kernels.rbf(0)
  with pytest.raises(ValueError, match="bandwidth"):
    kernels.cauchy(0)
  for lookup in (kernels.by_name, kernels.authors_kernel):
    with pytest.raises(ValueError, match="one of cosine, .* got 'cosin'"):
      lookup("cosin")


LEARNT = {
  "student_t": (kernels.student_t, 1.3),
  "rbf": (kernels.rbf, 2.0),
  "cauchy": (kernels.cauchy, 1.5),
  "von_mises_fisher": (kernels.von_mises_fisher, 3.0),
  "authors_cosine": (functools.partial(kernels.authors_kernel, "cosine"), 0.1),
  "authors_adaptive": (functools.partial(kernels.authors_kernel, "adaptive_rbf"), 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNT)
def test_parameters_may_be_traced_and_differentiated(name, x64):
  """Derivatives against differences in float64, also in blocks."""
  make, default = LEARNT[name]
  student, teacher = _features(0), _features(1)

  def loss(value, block_size):
    kernel, divergence = make(value), information.smoothed_kullback_leibler(value)
    options = {"kernels": kernel, "divergence": divergence, "block_size": block_size}
    return losses.conditional_divergence(student, teacher, **options)

  def both(value):
    return [jax.value_and_grad(loss)(value, size) for size in (None, 5)]

  values = jnp.array([default - 1e-5, default, default + 1e-5])
  known = jax.jit(lambda: loss(default, None))()
  for (low, value, high), slopes in jax.jit(lambda x: jax.lax.map(both, x))(values):
    np.testing.assert_allclose(value, known, rtol=1e-9)
    np.testing.assert_allclose(slopes[1], (high - low) / 2e-5, rtol=1e-5)
    assert slopes[1] != 0


@pytest.mark.parametrize("name", [*kernels.KERNELS, *LEARNT])
def test_nan_and_infinity_reach_every_pair_of_their_row(name):
  kernel = LEARNT[name][0](1.0) if name in LEARNT else kernels.by_name(name)
  rows = jnp.asarray(_features(), jnp.float32)
  for value in (jnp.nan, jnp.inf):
    similarities = jax.jit(kernel)(rows.at[2, 1].set(value))
    others = jnp.arange(rows.shape[0]) != 2
    assert jnp.isnan(similarities[2][others]).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_kernels_of_directions_ignore_extreme_scales(scale):
  rows = _features().astype(np.float32)
  for kernel in (kernels.cosine(), kernels.von_mises_fisher(), kernels.adaptive_rbf()):
    scaled = kernel(jnp.asarray(rows * np.float32(scale)))
    np.testing.assert_allclose(scaled, kernel(jnp.asarray(rows)), rtol=2e-5)

"""Debiased alignment: golden values, few rows, matrices that are 0 once centred."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax.losses import _kernel_alignment

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ALIGNMENTS = [losses.linear_cka, losses.rbf_cka]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
  ("debiased", "suffix"), [(False, "_biased"), (True, "")], ids=["biased", "debiased"]
)
def test_linear_cka_has_the_golden_values_and_gradients(seed, debiased, suffix, x64):
  golden = np.load(GOLDEN / f"cka_debiased_{seed}.npz")
  student, teacher = golden["student"], golden["teacher"]

  def alignment(student):
    return 1 - losses.linear_cka(student, teacher, debiased=debiased)

  value, gradient = jax.jit(jax.value_and_grad(alignment))(student)
  expected = golden[f"grad_student{suffix}"]
  np.testing.assert_allclose(value, golden[f"value{suffix}"], rtol=1e-9)
  np.testing.assert_allclose(gradient, expected, atol=1e-9 * abs(expected).max())


def _hsic(one, other):
  """HSIC1 up to a factor that CKA does not see, by its definition."""
  one, other = (kernel - np.diag(np.diag(kernel)) for kernel in (one, other))
  n = len(one)
  shared = one.sum() * other.sum() / ((n - 1) * (n - 2))
  return (one * other).sum() + shared - 2 / (n - 2) * one.sum(0) @ other.sum(0)


def _debiased(one, other):
  return _hsic(one, other) / np.sqrt(_hsic(one, one) * _hsic(other, other))


def test_seven_rows_look_more_alike_to_the_biased_estimate():
  rng = np.random.default_rng(173)
  teacher = rng.standard_normal((7, 2))
  student = teacher + rng.standard_normal((7, 2))
  measure = lambda **options: 1 - losses.linear_cka(student, teacher, **options)
  np.testing.assert_allclose(measure(), 0.49, atol=0.005)
  np.testing.assert_allclose(measure(debiased=True), 0.30, atol=0.005)
  kernels = student @ student.T, teacher @ teacher.T
  np.testing.assert_allclose(measure(debiased=True), _debiased(*kernels), rtol=1e-5)


@pytest.mark.slow
def test_unrelated_features_are_not_alike_on_average():
  sides = np.random.default_rng(0).standard_normal((2, 400, 8, 30)).astype(np.float32)
  biased, debiased = (
    1 - jax.jit(jax.vmap(lambda *s, d=d: losses.linear_cka(*s, debiased=d)))(*sides)
    for d in (False, True)
  )
  assert biased.mean() > 0.7
  assert abs(debiased.mean()) < 3 * debiased.std() / 20


@pytest.mark.slow
def test_rbf_cka_is_debiased_by_its_definition():
  rng = np.random.default_rng(1)
  sides = [rng.standard_normal((9, width)) for width in (3, 5)]
  value = losses.rbf_cka(*sides, bandwidth=0.5, debiased=True)
  kernels = []
  for rows in sides:
    squared = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    kernels.append(np.exp(-squared / (2 * 0.25 * squared.sum() / (9 * 8))))
  np.testing.assert_allclose(1 - value, _debiased(*kernels), rtol=1e-4)


DEGENERATE = {
  "alike": np.ones((9, 1)) * np.arange(3.0),
  "simplex": np.eye(9),
  "one row unlike": np.where(np.arange(9)[:, None] == 4, np.arange(1.0, 4), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("width", [3, 20])
@pytest.mark.parametrize("name", DEGENERATE)
def test_matrices_that_are_zero_once_centred_are_not_like_anything(name, width):
  """Such a side has alignment 0 in float32, at any scale, with a gradient of 0."""
  other = np.random.default_rng(0).standard_normal((9, width)).astype(np.float32)
  measure = jax.jit(
    jax.value_and_grad(
      lambda *sides: losses.linear_cka(*sides, debiased=True), argnums=(0, 1)
    )
  )
  for scale in (1.0, 1e-6, 1e18):
    rows = (scale * DEGENERATE[name]).astype(np.float32)
    value, gradients = measure(rows, other)
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    assert not gradients[1].any()
    assert np.isfinite(gradients[0]).all()
  assert measure(rows, 2 * rows)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 20])
def test_masks_that_leave_fewer_than_four_rows_give_zero(width):
  rng = np.random.default_rng(0)
  sides = rng.standard_normal((2, 9, width)).astype(np.float32)
  masks = np.arange(9) < np.arange(5)[:, None]
  for loss in ALIGNMENTS:
    function = jax.value_and_grad(
      lambda s, m, f=loss: f(s, sides[1], debiased=True, mask=m)
    )
    values, gradients = jax.jit(jax.vmap(function, in_axes=(None, 0)))(sides[0], masks)
    assert not values[:4].any()
    assert not gradients[:4].any()
    assert values[4] > 0
    sides[0, 1] = np.nan
    assert np.isnan(loss(*sides, debiased=True, mask=masks[3]))
    sides[0, 1] = 1


@pytest.mark.parametrize("loss", ALIGNMENTS)
def test_fewer_than_four_rows_are_refused(loss):
  with pytest.raises(ValueError, match="debiased: expected at least 4 rows.* got 3"):
    loss(jnp.eye(3), jnp.eye(3), debiased=True)
  with pytest.raises(ValueError, match="debiased: expected at least 4 rows"):
    _kernel_alignment.check_debiased_rows(1)

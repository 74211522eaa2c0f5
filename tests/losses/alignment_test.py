"""Centred kernel alignment: definition, shape of the batch, degenerate rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses


def _features(rows=10, student=5, teacher=7, seed=0):
  rng = np.random.default_rng(seed)
  make = lambda width: jnp.asarray(rng.standard_normal((rows, width)), jnp.float32)
  return make(student), make(teacher)


def _centred(kernel):
  return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()


def _alignment(one, other):
  one, other = _centred(one), _centred(other)
  return 1 - (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)


def _gaussian(x, bandwidth):
  squared = ((x[:, None] - x[None, :]) ** 2).sum(-1)
  spread = squared.sum() / (len(x) * (len(x) - 1))
  return np.exp(-squared / (2 * bandwidth**2 * spread))


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(3, 4), (9, 4), (9, 20)])
def test_linear_cka_of_masked_rows_is_its_definition_at_any_width(widths):
  student, teacher = _features(8, *widths)
  mask = jnp.arange(8) < 6
  exact = [np.asarray(x[:6], np.float64) for x in (student, teacher)]
  expected = _alignment(*(x @ x.T for x in exact))
  value = losses.linear_cka(student, teacher.at[7].set(jnp.nan), mask=mask)
  np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.slow
def test_rbf_cka_of_a_wide_kernel_is_linear_cka():
  student, teacher = _features(8, 3, 4)
  exact = [np.asarray(x, np.float64) for x in (student, teacher)]
  value = losses.rbf_cka(student, teacher, bandwidth=0.5)
  expected = _alignment(*(_gaussian(x, 0.5) for x in exact))
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  wide = losses.rbf_cka(student, teacher, bandwidth=1e3)
  np.testing.assert_allclose(wide, losses.linear_cka(student, teacher), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.linear_cka, losses.rbf_cka])
def test_alignment_with_rows_all_alike(loss):
  student, teacher = _features(9, 3, 20)
  alike = jnp.broadcast_to(student[:1], student.shape)
  for pair, side in (((alike, teacher), 0), ((teacher, alike), 1)):
    value, gradient = jax.jit(jax.value_and_grad(loss, argnums=side))(*pair)
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    assert not gradient.any()
  assert jax.jit(loss)(alike, 2 * alike) == 0


@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.rbf_cka, losses.linear_cka])
def test_alignment_of_kernels_refuses_second_derivatives(loss):
  rng = np.random.default_rng(0)
  wide, other = jnp.asarray(rng.standard_normal((2, 4, 6)), jnp.float32)
  gradient = jax.jit(jax.grad(jax.checkpoint(loss)))(wide, other)
  assert np.isfinite(gradient).all()
  with pytest.raises(TypeError, match="first derivatives only, got a second"):
    jax.hessian(loss)(wide, other)


@pytest.mark.slow
def test_impossible_options_are_refused():
  student, teacher = _features(4, 3, 3)
  with pytest.raises(ValueError, match="bandwidth: expected a number above 0, got 0"):
    losses.rbf_cka(student, teacher, bandwidth=0)
  with pytest.raises(ValueError, match="block_size: expected"):
    losses.linear_cka(student, teacher, block_size=0)

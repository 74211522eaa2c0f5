"""Contrastive distillation within the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses


def _features(rows=6, seed=0):
  rng = np.random.default_rng(seed)
  make = lambda width: jnp.asarray(rng.standard_normal((rows, width)), jnp.float32)
  return make(5), make(7)


def _heads(student, teacher):
  return losses.crd_init(jax.random.key(1), student.shape, teacher.shape, width=4)


def _crd(student, teacher, **options):
  return losses.crd(student, teacher, params=_heads(student, teacher), **options)


def _embed(features, head):
  rows = np.asarray(features, np.float64) @ np.asarray(head["kernel"], np.float64)
  rows += np.asarray(head["bias"], np.float64)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [None, 4])
def test_crd_is_infonce_of_both_sides(block_size):
  student, teacher = _features()
  params = _heads(student, teacher)
  u, v = _embed(student, params["student"]), _embed(teacher, params["teacher"])
  similarity = np.exp(u @ v.T / 0.07)
  matched = np.diagonal(similarity)
  expected = -np.log(matched / similarity.sum(1)) - np.log(matched / similarity.sum(0))
  loss = functools.partial(_crd, block_size=block_size)
  value, gradient = jax.jit(jax.value_and_grad(loss))(student, teacher)
  np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
  reference = jax.jit(jax.grad(_crd))(student, teacher)
  np.testing.assert_allclose(gradient, reference, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_crd_is_invariant_to_permutation_and_without_heads_to_scale_and_rotation():
  student, teacher = _features()
  order = jnp.array([3, 1, 5, 0, 2, 4])
  loss = jax.jit(_crd)
  np.testing.assert_allclose(
    loss(student[order], teacher[order]), loss(student, teacher), rtol=1e-5
  )
  teacher = teacher[:, :5]
  loss = jax.jit(losses.crd)
  expected = loss(student, teacher)
  scales = jnp.logspace(-3, 3, 6)[:, None]
  np.testing.assert_allclose(loss(student * scales, teacher), expected, rtol=1e-4)
  random = np.random.default_rng(2).standard_normal((5, 5))
  rotation = jnp.asarray(np.linalg.qr(random)[0], jnp.float32)
  np.testing.assert_allclose(
    loss(student @ rotation, teacher @ rotation), expected, rtol=1e-4
  )


@pytest.mark.slow
def test_gradient_steps_reduce_the_loss():
  student, teacher = _features()
  step = jax.jit(jax.value_and_grad(_crd))
  first, _ = step(student, teacher)
  for _ in range(30):
    student -= 0.3 * step(student, teacher)[1]
  assert step(student, teacher)[0] < 0.9 * first


@pytest.mark.slow
def test_bad_input_is_refused():
  student, teacher = _features()
  with pytest.raises(ValueError, match="student has width 5 .* 7: pass params"):
    losses.crd(student, teacher)
  with pytest.raises(ValueError, match="temperature: expected a number above 0"):
    _crd(student, teacher, temperature=-1.0)
  with pytest.raises(ValueError, match="student has 6, teacher has 5"):
    _crd(student, teacher[1:])
  with pytest.raises(TypeError, match="student: expected a floating-point array"):
    losses.crd(student.astype(jnp.int32), teacher)
  with pytest.raises(ValueError, match="params, student kernel: expected shape"):
    losses.crd(teacher, teacher, params=_heads(student, teacher))
  with pytest.raises(ValueError, match=r"mask: expected shape \(6,\), got \(3,\)"):
    _crd(student, teacher, mask=jnp.ones(3, bool))

"""Divergences from similarities against those from logarithms."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax.information import _direct

KERNELS = {
  "cosine": kernels.cosine,
  "student_t": kernels.student_t,
  "student_t, squared": lambda: kernels.student_t(2.0),
  "cauchy": kernels.cauchy,
}
DIVERGENCES = information.jeffreys, information.kullback_leibler


def _loss(student, teacher, mask, kernel, divergence, block_size=None):
  return losses.conditional_divergence(
    student,
    teacher,
    kernels=kernel,
    divergence=divergence,
    mask=mask,
    block_size=block_size,
  )


def _problem(width=5):
  rng = np.random.default_rng(0)
  student, teacher = (rng.standard_normal((13, each)) for each in (width, 7))
  student[2] = 0
  teacher[4:6] = teacher[3]
  return student, teacher, np.arange(13) < 11


@pytest.mark.slow
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", KERNELS)
def test_value_and_derivatives_equal_those_of_logarithms(name, divergence, x64):
  direct = KERNELS[name]()
  assert _direct.is_direct(direct, divergence)
  logs = dataclasses.replace(direct, direct=None)
  student, teacher, mask = _problem()

  def results(kernel, block_size=None):
    loss = functools.partial(
      _loss, mask=mask, kernel=kernel, divergence=divergence, block_size=block_size
    )
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(student, teacher)
    forward = jax.jvp(loss, (student, teacher), (np.cos(student), np.sin(teacher)))[1]
    return value, *gradients, forward

  actual, blocked, expected = jax.jit(
    lambda: (results(direct), results(direct, 4), results(logs))
  )()
  for one, two, other in zip(actual, blocked, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(two, other, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
def test_second_derivatives_equal_those_of_logarithms(x64):
  student, teacher, mask = _problem(2)
  student[2] = 1, 2
  direct = [kernels.cosine(), kernels.student_t()]
  logs = [dataclasses.replace(each, direct=None) for each in direct]

  def hessian(kernel):
    return jax.hessian(_loss)(student, teacher, mask, kernel, information.jeffreys)

  np.testing.assert_allclose(
    *jax.jit(lambda: (hessian(direct), hessian(logs)))(), rtol=1e-6, atol=1e-9
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mean", "divergence"), [(1e3, DIVERGENCES[1]), (10.0, DIVERGENCES[0])]
)
def test_near_equality_and_large_means_keep_the_digits(mean, divergence):
  """A teacher that is nearly the student; errors of value and gradient."""
  rng = np.random.default_rng(1)
  student = np.float32(mean + rng.standard_normal((24, 8)))
  teacher = student + np.float32(1e-2 * rng.standard_normal((24, 8)))
  function = jax.jit(
    jax.value_and_grad(
      functools.partial(_loss, kernel=kernels.cosine(), divergence=divergence)
    )
  )
  value, gradient = function(student, teacher, None)
  with jax.enable_x64(True):
    exact = (side.astype(np.float64) for side in (student, teacher))
    expected, reference = jax.tree.map(np.asarray, function(*exact, None))
  np.testing.assert_allclose(value, expected, rtol=1e-3)
  size = abs(reference).max()
  np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-2 * size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["student_t", "cauchy"])
@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_similarities_far_from_one_keep_their_gradient(name, scale):
  student, teacher, _ = (np.float32(each) for each in _problem())
  function = jax.jit(
    jax.grad(
      functools.partial(
        _loss, kernel=KERNELS[name](), divergence=information.jeffreys, mask=None
      )
    )
  )
  student = np.float32(scale) * student
  gradient = np.asarray(function(student, teacher), np.float64)
  with jax.enable_x64(True):
    exact = (side.astype(np.float64) for side in (student, teacher))
    expected = np.asarray(function(*exact))
  size = abs(expected).max()
  np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * size)

"""Factor transfer with the paper's params; its plain form is in spatial_test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses


def _maps():
  rng = np.random.default_rng(0)
  make = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return make(3, 4, 4, 2), make(3, 4, 4, 6)


def _networks(student, teacher):
  params = losses.factor_transfer_init(jax.random.key(0), student.shape, teacher.shape)
  return jax.tree.map(lambda p: p + 0.05, params)


def _convolve(maps, layers):
  """Convolutions of 3 x 3 and leaky rectifiers, in float64 with loops."""
  maps = np.asarray(maps, np.float64)
  for layer in layers:
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    maps = np.zeros((*maps.shape[:3], 1)) + np.asarray(layer["bias"], np.float64)
    for row, column in np.ndindex(3, 3):
      window = padded[:, row : row + 4, column : column + 4]
      maps = maps + window @ np.asarray(layer["kernel"][row, column], np.float64)
    maps = np.where(maps > 0, maps, 0.1 * maps)
  return maps


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_factor_transfer_equals_its_definition(power):
  student, teacher = _maps()
  params = _networks(student, teacher)
  factors = [
    _convolve(student, params["translator"]).reshape(3, -1),
    _convolve(teacher, params["paraphraser"]["encoder"]).reshape(3, -1),
  ]
  assert factors[0].shape == (3, 4 * 4 * 3)
  units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in factors]
  expected = (abs(units[0] - units[1]) ** power).sum(1).mean()
  loss = jax.jit(functools.partial(losses.factor_transfer, power=power))
  actual = loss(student, teacher, params=params)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
def test_factor_reconstruction_equals_its_definition():
  student, teacher = _maps()
  params = _networks(student, teacher)
  layers = params["paraphraser"]["encoder"] + params["paraphraser"]["decoder"]
  restored = _convolve(teacher, layers)
  expected = ((restored - np.asarray(teacher)) ** 2).sum((1, 2, 3)).mean()
  actual = jax.jit(losses.factor_reconstruction)(teacher, params=params)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
def test_only_the_translator_is_trained_with_the_student():
  student, teacher = _maps()

  @jax.jit
  @jax.grad
  def gradients(params):
    return losses.factor_transfer(student, teacher, params=params)

  gradient = gradients(_networks(student, teacher))
  norms = jax.tree.map(lambda g: float(jnp.abs(g).max()), gradient)
  assert set(jax.tree.leaves(norms["paraphraser"])) == {0.0}
  assert min(jax.tree.leaves(norms["translator"])) > 0


@pytest.mark.slow
def test_the_paraphraser_learns_to_reconstruct():
  student, teacher = _maps()
  params = _networks(student, teacher)
  step = jax.jit(
    jax.value_and_grad(
      lambda params: losses.factor_reconstruction(
        teacher, params=params, reduction="elements"
      )
    )
  )
  first, _ = step(params)
  for _ in range(50):
    _, gradient = step(params)
    params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
  assert step(params)[0] < 0.9 * first


def test_bad_input_is_refused():
  student, teacher = _maps()
  params = _networks(student, teacher)
  with pytest.raises(ValueError, match="translator kernel: expected shape"):
    losses.factor_transfer(teacher, teacher, params=params)
  with pytest.raises(ValueError, match="paraphraser kernel: expected shape"):
    losses.factor_reconstruction(student, params=params)
  with pytest.raises(ValueError, match="power: expected a number above 0, got 0"):
    losses.factor_transfer(student, teacher, power=0)
  with pytest.raises(
    ValueError, match="channels times rate: expected a number above 0"
  ):
    losses.factor_transfer_init(jax.random.key(0), (2,), (3,), rate=0.1)
  with pytest.raises(ValueError, match="teacher: expected non-empty maps of shape"):
    losses.factor_transfer(student, teacher[0])

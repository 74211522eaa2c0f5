"""Cosine and normalised regression: definitions, masks of positions, extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses

STANDARD = functools.partial(losses.normalized_regression, normalization="standard")
LOSSES = {
  "cosine": losses.cosine_regression,
  "unit": losses.normalized_regression,
  "standard": STANDARD,
  "smooth": functools.partial(STANDARD, distance="smooth_l1", threshold=2.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def _tokens(seed=0, shape=(3, 4, 5)):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _expected(name, student, teacher):
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  if name == "cosine":
    return 1 - (unit(student) * unit(teacher)).sum(-1)
  if name == "unit":
    return ((unit(student) - unit(teacher)) ** 2).sum(-1)
  centred = teacher - teacher.mean(-1, keepdims=True)
  gaps = student - centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)
  if name == "standard":
    return (gaps**2).mean(-1)
  return np.where(abs(gaps) < 2, gaps**2 / 4, abs(gaps) - 1).mean(-1)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_its_definition_on_real_positions(name):
  student, teacher = 2 * _tokens(), _tokens(1)
  real = np.arange(12).reshape(3, 4) % 5 != 2
  expected = _expected(name, student, teacher)
  np.testing.assert_allclose(LOSSES[name](student, teacher), expected.mean(), rtol=1e-5)
  student[~real], teacher[~real] = np.nan, np.inf
  value, gradient = jax.value_and_grad(LOSSES[name])(
    jnp.asarray(student), teacher, mask=real
  )
  np.testing.assert_allclose(value, expected[real].mean(), rtol=1e-5)
  assert np.isfinite(gradient).all()
  assert not gradient[~real].any()
  real[0, 2] = True  # not finite
  assert np.isnan(LOSSES[name](student, teacher, mask=real))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "unit"])
def test_mask_of_positions_holds_over_all_devices(name):
  student, teacher = _tokens(0, (8, 2, 3)), _tokens(1, (8, 2, 3))
  real = np.arange(16).reshape(8, 2) % 3 != 0
  loss = functools.partial(LOSSES[name], axis_name="batch")
  mapped = jax.pmap(lambda s, t, m: loss(s, t, mask=m), axis_name="batch")
  spread = (x.reshape(8, 1, *x.shape[1:]) for x in (student, teacher, real))
  expected = LOSSES[name](student, teacher, mask=real)
  np.testing.assert_allclose(mapped(*spread), np.full(8, expected), rtol=1e-5)


@pytest.mark.slow
@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_gradient_is_finite_at_extreme_features(loss, scale):
  student = jnp.asarray(scale * _tokens()).at[0].set(0)
  for sides in ((student, _tokens(1)), (_tokens(1), student), (student, student)):
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(
      *map(jnp.asarray, sides)
    )
    assert not np.isnan(value)
    assert all(np.isfinite(each).all() for each in gradients)


def test_small_angles_keep_their_digits():
  student = np.array([[1, 0]], np.float32)
  teacher = np.array([[1, 1e-5]], np.float32)
  actual = losses.cosine_regression(student, teacher)
  np.testing.assert_allclose(actual, 5e-11, rtol=1e-3)


def test_cosine_with_zeros_is_zero():
  student, zeros = _tokens(), np.zeros((3, 4, 5), np.float32)
  assert losses.cosine_regression(student, zeros) == 1
  assert losses.cosine_regression(zeros, zeros) == 1


def test_wrong_options_are_refused():
  student = _tokens()
  with pytest.raises(ValueError, match=r"mask: expected shape \(3, 4\), got \(3, 5\)"):
    losses.cosine_regression(student, student, mask=np.ones((3, 5)))
  with pytest.raises(ValueError, match="normalization: expected one of 'unit'"):
    losses.normalized_regression(student, student, normalization="batch")
  with pytest.raises(ValueError, match="distance: expected one of 'squared'"):
    losses.normalized_regression(student, student, distance="huber")
  with pytest.raises(ValueError, match="threshold: expected a number above 0"):
    losses.normalized_regression(student, student, threshold=0)
  with pytest.raises(ValueError, match="student has 5 channels and teacher 4"):
    losses.cosine_regression(student, student[..., :4])

"""Losses on channels: the authors' values, invariances, extreme maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


def _maps(shape=(4, 5, 4, 3), seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
  ("softmax_over", "ending"), [("positions", ""), ("channels", "_spatial")]
)
def test_authors_channel_wise_distillation_is_reproduced(softmax_over, ending, x64):
  golden = golden_files.load("cwd_1")
  sides = (golden_files.channels_last(golden[x]) for x in ("student", "teacher"))
  loss = functools.partial(
    losses.channel_wise_distillation,
    temperature=float(golden["temperature"]),
    softmax_over=softmax_over,
  )
  value, gradient = jax.jit(jax.value_and_grad(loss))(*sides)
  golden_files.assert_near(value, golden["value" + ending])
  expected = golden_files.channels_last(golden["grad_student" + ending])
  golden_files.assert_near(gradient, expected)


@pytest.mark.slow
def test_authors_ickd_is_reproduced(x64):
  """Projections with batch normalisation, in evaluation (linear), and without."""
  golden = golden_files.load("ickd_1")
  kernel = golden_files.kernel(golden["param.embed_s.conv2d.weight"])
  scale, bias = (golden[f"param.embed_s.l2norm.{x}"] for x in ("weight", "bias"))
  mean, variance = (
    golden[f"buffer.embed_s.l2norm.running_{x}"] for x in ("mean", "var")
  )
  factor = scale / np.sqrt(variance + golden["bn_epsilon"])
  cases = {
    "_train_bn": ("student", {"kernel": kernel, "scale": scale, "bias": bias}),
    "": ("student", {"kernel": kernel * factor, "bias": bias - mean * factor}),
    "_no_embed": ("student_no_embed", None),
  }
  teacher = golden_files.channels_last(golden["teacher"])
  loss = lambda student, params: losses.ickd(student, teacher, params=params)
  for ending, (side, params) in cases.items():
    student = golden_files.channels_last(golden[side])
    value, gradient = jax.jit(jax.value_and_grad(loss))(student, params)
    golden_files.assert_near(value, golden["value" + ending])
    expected = golden_files.channels_last(golden["grad_student" + ending])
    golden_files.assert_near(gradient, expected)


@pytest.mark.slow
def test_channel_wise_distillation_ignores_constants_and_far_logits():
  student, teacher = _maps(), _maps(seed=1)
  loss = jax.jit(losses.channel_wise_distillation)
  expected = loss(student, teacher)
  shifts = np.float32([1, -20, 5])
  np.testing.assert_allclose(loss(student + shifts, teacher), expected, rtol=1e-3)
  order = np.random.default_rng(0).permutation(5)
  np.testing.assert_allclose(
    loss(student[:, order], teacher[:, order]), expected, rtol=1e-5
  )
  far = losses.channel_wise_distillation(1e6 * student, teacher)
  assert np.isfinite(far)


@pytest.mark.slow
def test_ickd_is_invariant_to_scale_and_positions_and_between_0_and_4():
  student, teacher = _maps(), _maps((4, 2, 3, 3), seed=1)
  loss = jax.jit(losses.ickd)
  expected = loss(student, teacher)
  assert 0 < expected < 4
  scales = np.float32([1e-9, 1, 30, 1e9])[:, None, None, None]
  np.testing.assert_allclose(loss(student * scales, teacher), expected, rtol=1e-5)
  np.testing.assert_allclose(loss(student[:, ::-1], teacher), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
@pytest.mark.parametrize("loss", [losses.ickd, losses.channel_wise_distillation])
def test_gradient_is_finite_at_extreme_maps(loss, scale):
  student = np.clip(_maps() * np.float64(scale), -3e38, 3e38).astype(np.float32)
  student[0, ..., 1], student[1] = 0, scale
  value, gradient = jax.value_and_grad(loss)(jnp.asarray(student), _maps(seed=1))
  assert not np.isnan(value)
  assert np.isfinite(gradient).all()


def test_unequal_channels_without_params_are_refused():
  student, teacher = _maps(), _maps((4, 5, 4, 7))
  with pytest.raises(ValueError, match=r"student has 3 channels and teacher 7: .*ickd"):
    losses.ickd(student, teacher)
  with pytest.raises(ValueError, match=r"teacher 7: pass params, from hint_init"):
    losses.channel_wise_distillation(student, teacher)
  params = losses.ickd_init(jax.random.key(0), student.shape, student.shape)
  with pytest.raises(ValueError, match=r"params kernel: expected shape \(3, 7\)"):
    losses.ickd(student, teacher, params=params)
  with pytest.raises(ValueError, match="softmax_over: expected one of 'positions'"):
    losses.channel_wise_distillation(student, student, softmax_over="rows")

"""Divergences of softened probabilities beside the relative entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files

SIDES = ("student", "teacher")


def _value_and_grad(loss, golden, **options):
  """Value and gradient in the student over tokens with a label."""

  def of_student(student, options):
    return loss(student, golden["teacher"], mask=golden["mask"], **options)

  return jax.jit(jax.value_and_grad(of_student))(golden["student"], options)


@golden_files.second_set("jsd")
def test_jensen_shannon_is_that_of_trl(golden, x64):
  square = golden["temperature"] ** 2
  for i, beta in enumerate(golden["betas"]):
    value, gradient = _value_and_grad(
      losses.jensen_shannon, golden, beta=beta, temperature=golden["temperature"]
    )
    np.testing.assert_allclose(value / square, golden["value"][i], rtol=1e-9)
    golden_files.assert_gradient(gradient / square, golden["grad_student"][i])


@golden_files.second_set("token_kl")
def test_forward_and_reverse_are_those_of_distillm(golden, x64):
  for loss, name, suffix in (
    (losses.reverse_kl, "reverse_kl", ""),
    (losses.knowledge_distillation, "forward_kl", "_minus_entropy"),
  ):
    value, gradient = _value_and_grad(loss, golden, temperature=1.0)
    np.testing.assert_allclose(value, golden[f"value_{name}{suffix}"], rtol=1e-9)
    golden_files.assert_gradient(gradient, golden[f"grad_student_{name}"])


@golden_files.second_set("skew_kl")
def test_skewed_divergences_are_those_of_distillm(golden, x64):
  def forward(student, teacher, **options):
    return losses.skew_kl(student, teacher, **options)

  def reverse(student, teacher, **options):
    return losses.skew_kl(student, teacher, reverse=True, **options)

  for loss, name, suffix in (
    (forward, "skewed_forward_kl", "_minus_entropy"),
    (reverse, "skewed_reverse_kl", ""),
  ):
    for i, alpha in enumerate(golden["lams"]):
      value, gradient = _value_and_grad(loss, golden, alpha=alpha)
      np.testing.assert_allclose(value, golden[f"value_{name}{suffix}"][i], rtol=1e-9)
      golden_files.assert_gradient(gradient, golden[f"grad_student_{name}"][i])


def _logits(seed=0):
  rng = np.random.default_rng(seed)
  return [2 * rng.standard_normal((4, 5)) for _ in SIDES]


@jax.jit
def _jensen_shannon(beta, student, teacher):
  return [
    jax.value_and_grad(
      lambda *x, scaled=scaled: losses.jensen_shannon(
        x[1], x[2], beta=x[0], scaled=scaled
      ),
      argnums=(0, 1, 2),
    )(beta, student, teacher)
    for scaled in (False, True)
  ]


def test_scaled_jensen_shannon_goes_from_forward_to_reverse_without_a_jump(x64):
  sides = _logits()
  ends = {
    0.0: losses.knowledge_distillation(*sides, temperature=1.0),
    1.0: losses.reverse_kl(*sides),
  }
  for end, expected in ends.items():
    near = abs(end - 1e-7)
    for beta in (end, near):
      scaled = _jensen_shannon(beta, *sides)[1][0]
      np.testing.assert_allclose(scaled, expected, rtol=1e-5)
    np.testing.assert_allclose(_jensen_shannon(end, *sides)[0][0], expected, rtol=1e-12)
    np.testing.assert_allclose(
      _jensen_shannon(near, *sides)[0][0], 1e-7 * expected, rtol=1e-5
    )
  plain, scaled = _jensen_shannon(0.5, *sides)
  np.testing.assert_allclose(scaled[0], 4 * plain[0], rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1e-30, 1e-6, 0.3, 1.0 - 1e-7, 1.0])
def test_jensen_shannon_is_finite_for_every_beta_and_finite_logits(beta):
  student, teacher = (np.float32(side) for side in _logits())
  student[0], teacher[1] = 0, 0
  student[2] *= 1e30
  teacher[3] *= 1e30
  results = _jensen_shannon(jnp.float32(beta), student, teacher)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


RULED_OUT = {
  "jensen_shannon": lambda s, t: losses.jensen_shannon(s, t, beta=0.3),
  "skew_kl": lambda s, t: losses.skew_kl(s, t),
  "skew_kl, reverse": lambda s, t: losses.skew_kl(s, t, reverse=True),
}


@pytest.mark.parametrize("name", RULED_OUT)
@pytest.mark.parametrize("side", SIDES)
def test_mixtures_are_finite_where_one_side_rules_out_a_class(name, side, x64):
  logits = _logits()
  logits[SIDES.index(side)][2, 3] = -np.inf
  value, gradients = jax.jit(jax.value_and_grad(RULED_OUT[name], argnums=(0, 1)))(
    *logits
  )
  # A very low logit is the same.
  logits[SIDES.index(side)][2, 3] = -500.0
  np.testing.assert_allclose(value, RULED_OUT[name](*logits), rtol=1e-10)
  assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_reverse_kl_is_infinite_where_the_teacher_alone_rules_out_a_class():
  student, teacher = (np.float32(side) for side in _logits())
  teacher[2, 3] = -np.inf
  value, gradients = jax.jit(jax.value_and_grad(losses.reverse_kl, argnums=(0, 1)))(
    student, teacher
  )
  assert value == np.inf
  assert all(np.isfinite(gradient).all() for gradient in gradients)
  student[2, 3] = -np.inf
  assert np.isfinite(losses.reverse_kl(student, teacher))


def test_shares_outside_0_and_1_are_refused():
  student, teacher = (np.float32(side) for side in _logits())
  for loss, name in ((losses.jensen_shannon, "beta"), (losses.skew_kl, "alpha")):
    for value in (-0.1, 1.1, np.float32(2)):
      with pytest.raises(ValueError, match=rf"{name}: expected a number in \[0, 1\]"):
        loss(student, teacher, **{name: value})
    with pytest.raises(TypeError, match=f"{name}: expected a number, got 'half'"):
      loss(student, teacher, **{name: "half"})


@pytest.mark.parametrize("loss", [losses.jensen_shannon, losses.skew_kl])
def test_derivatives_at_the_ends_of_a_mixture_are_finite(loss, x64):
  student, teacher = _logits()
  name = "beta" if loss is losses.jensen_shannon else "alpha"
  slope = jax.jit(jax.grad(lambda share: loss(student, teacher, **{name: share})))
  for share in (0.0, 1.0):
    assert np.isfinite(slope(share))
  if name == "alpha":
    difference = (
      loss(student, teacher, alpha=1e-6) - loss(student, teacher, alpha=0.0)
    ) / 1e-6
    np.testing.assert_allclose(slope(0.0), difference, rtol=1e-4)

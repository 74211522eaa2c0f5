"""Options and shapes that all losses on logits share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax.losses import _logits
from tests.losses import golden_files

BATCH, TOKENS, CLASSES = 4, 3, 5
LABELS = np.arange(BATCH * TOKENS, dtype=np.int32) % CLASSES

# Losses of both sides, each as a call without further arguments.
CALLS = {
  "decoupled_kd": lambda s, t, **options: losses.decoupled_kd(
    s, t, labels=LABELS.reshape(s.shape[:-1]), **options
  ),
  "dist": losses.dist,
  "knowledge_distillation": losses.knowledge_distillation,
  "transformed_teacher_matching": losses.transformed_teacher_matching,
}
every_loss = pytest.mark.parametrize("name", CALLS)


def _sides(dtype=np.float32, seed=0):
  rng = np.random.default_rng(seed)
  shape = BATCH, TOKENS, CLASSES
  return [(2 * rng.standard_normal(shape)).astype(dtype) for _ in range(2)]


def _evaluate(name, *sides, **options):
  function = jax.value_and_grad(lambda *x: CALLS[name](*x, **options), argnums=(0, 1))
  return jax.jit(function)(*sides)


@golden_files.second_set("lskd")
def test_standardized_logits_are_those_of_the_authors(golden, x64):
  sides = golden["student"], golden["teacher"]
  for standardize, suffix in ((True, ""), (False, "_plain_kd")):
    value, gradient = jax.jit(
      jax.value_and_grad(losses.knowledge_distillation),
      static_argnames="standardize",
    )(*sides, temperature=golden["temperature"], standardize=standardize)
    np.testing.assert_allclose(value, golden[f"value{suffix}"], rtol=1e-9)
    golden_files.assert_gradient(gradient, golden[f"grad_student{suffix}"])


@every_loss
def test_standardized_logits_have_neither_scale_nor_shift(name, x64):
  student, teacher = _sides(np.float64)
  expected, gradients = _evaluate(name, student, teacher, standardize=True)
  assert expected > 0
  assert all(np.abs(gradient).max() > 0 for gradient in gradients)
  moved = _evaluate(name, 8 * student + 3, teacher / 4 - 5, standardize=True)[0]
  np.testing.assert_allclose(moved, expected, rtol=1e-6)


@every_loss
def test_standardized_logits_leave_out_classes_that_are_ruled_out(name, x64):
  student, teacher = _sides(np.float64)
  expected, gradients = _evaluate(name, student, teacher, standardize=True)
  # Class 4 is no label where it would be the last one to be added.
  wider = [np.insert(side, 2, -np.inf, axis=2) for side in (student, teacher)]
  labels = LABELS + (LABELS >= 2)
  if name == "decoupled_kd":
    call = lambda s, t: losses.decoupled_kd(
      s, t, labels=labels.reshape(BATCH, TOKENS), standardize=True
    )
  else:
    call = lambda s, t: CALLS[name](s, t, standardize=True)
  value, of_wider = jax.jit(jax.value_and_grad(call, argnums=(0, 1)))(*wider)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  for one, other in zip(of_wider, gradients, strict=True):
    np.testing.assert_allclose(np.delete(one, 2, axis=2), other, atol=1e-12)


CONSTANT = (0.0, 3.0, -1e30, 1e-30)


@every_loss
def test_standardized_logits_are_finite_for_constant_and_extreme_rows(name):
  student, teacher = _sides()
  for row, value in enumerate(CONSTANT):
    student[row, 0] = teacher[row, 1] = value
  student[0, 2] *= 1e30
  student[1, 2] *= 1e-30
  student[2, 2], teacher[2, 2] = [3e38, -3e38, 0, 1, 2], 1e-38 * np.arange(CLASSES)
  student[3, 2] = 1000 + np.float32(1e-4) * np.arange(CLASSES, dtype=np.float32)
  for sides in ((student, teacher), (teacher, student)):
    value, gradients = _evaluate(name, *sides, standardize=True)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_loss
@pytest.mark.parametrize("broken", [np.nan, np.inf, "all impossible"])
def test_standardized_logits_that_are_broken_give_nan_unless_masked(name, broken):
  for side in range(2):
    sides = _sides()
    sides[side][1, 1, 2] = -np.inf if isinstance(broken, str) else broken
    if isinstance(broken, str):
      sides[side][1, 1] = -np.inf
    mask = np.ones((BATCH, TOKENS), bool)
    values = []
    for real in (True, False):
      mask[1, 1] = real
      values.append(_evaluate(name, *sides, standardize=True, mask=mask))
    assert np.isnan(values[0][0])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(values[1]))


@every_loss
def test_positions_are_rows_and_a_mask_may_have_either_shape(name, x64):
  student, teacher = _sides(np.float64)
  real = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1]], bool)
  flat = [side[real] for side in (student, teacher)]
  options = {"labels": LABELS[real.ravel()]} if name == "decoupled_kd" else {}
  expected, of_flat = jax.value_and_grad(getattr(losses, name), argnums=(0, 1))(
    *flat, **options
  )
  for side in (student, teacher):
    side[~real] = np.nan
  value, gradients = _evaluate(name, student, teacher, mask=jnp.asarray(real))
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  for gradient, other in zip(gradients, of_flat, strict=True):
    np.testing.assert_allclose(gradient[real], other, atol=1e-12)
    assert not np.asarray(gradient[~real]).any()
  examples = [side[:, :1].repeat(TOKENS, 1) for side in _sides(np.float64)]
  by_example = CALLS[name](*examples, mask=[True, False, True, True])
  of_rows = np.broadcast_to([[True], [False], [True], [True]], real.shape)
  by_row = CALLS[name](*examples, mask=of_rows)
  np.testing.assert_allclose(by_example, by_row, rtol=1e-12)
  assert CALLS[name](*examples, mask=np.zeros(BATCH, bool)) == 0


def test_labels_of_tokens_may_be_missing():
  logits, _ = _sides()
  labels = LABELS.reshape(BATCH, TOKENS).copy()
  labels[0], labels[2, 1] = -100, -100
  real = labels >= 0
  expected = losses.cross_entropy(logits[real], labels[real])
  value = losses.cross_entropy(logits, labels)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  labels[1, 1] = CLASSES
  with pytest.raises(ValueError, match="labels: expected classes from 0 to 4.*got 5"):
    losses.cross_entropy(logits, labels, mask=[True, True, True, True])
  masked = losses.cross_entropy(logits, labels, mask=[True, False, True, True])
  assert np.isfinite(masked)


def test_temperatures_may_belong_to_examples_or_rows():
  student, teacher = _sides()
  of_examples = np.arange(1, 1 + BATCH, dtype=np.float32)
  of_rows = np.repeat(of_examples[:, None], TOKENS, axis=1)
  one, other = (
    losses.knowledge_distillation(student, teacher, temperature=values)
    for values in (of_examples, of_rows)
  )
  np.testing.assert_allclose(one, other, rtol=1e-6)
  with pytest.raises(ValueError, match="one for each of 4 x 3 rows"):
    losses.knowledge_distillation(student, teacher, temperature=np.ones(3))


def test_standardized_rows_have_mean_0_and_deviation_1(x64):
  rows = jnp.asarray(_sides(np.float64)[0].reshape(-1, CLASSES)) + 3
  scores = _logits.standardized(rows)
  np.testing.assert_allclose(scores.mean(1), 0, atol=1e-12)
  np.testing.assert_allclose(scores.std(1, ddof=1), 1, rtol=1e-6)

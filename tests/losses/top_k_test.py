"""Distillation from k classes of the teacher and the rest as one bucket."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files

ROWS, CLASSES = 6, 9


def _logits(dtype=np.float64, seed=0):
  rng = np.random.default_rng(seed)
  return [(2 * rng.standard_normal((ROWS, CLASSES))).astype(dtype) for _ in range(2)]


@functools.partial(jax.jit, static_argnames=("block_size",))
def _evaluate(student, logs, ids, options, block_size=None):
  def loss(student, logs):
    return losses.top_k_distillation(
      student, logs, ids=ids, block_size=block_size, **options
    )

  return jax.value_and_grad(loss, argnums=(0, 1))(student, logs)


def _support(golden, k, beta):
  """Classes that TRL compares: of the teacher, of the student or of both."""
  of_teacher, of_student = (
    np.argsort(-golden[side], axis=-1)[..., :k] for side in ("teacher", "student")
  )
  if beta in (0, 1):
    return of_student if beta else of_teacher
  known = (of_student[..., :, None] == of_teacher[..., None, :]).any(-1)
  return np.concatenate([of_teacher, np.where(known, -1, of_student)], axis=-1)


@golden_files.second_set("topk_tail")
def test_tails_are_those_of_trl(golden, x64):
  temperature, index = golden["temperature"], 1
  k = int(golden["top_ks"][index])
  logs = jax.nn.log_softmax(golden["teacher"] / temperature)
  real = golden["mask"] & ~golden["teacher_clamped"] & ~golden["student_clamped"]
  assert (real == golden["mask"]).all(), "clamped values of this k are not comparable"
  for i, beta in enumerate(golden["betas"]):
    ids = _support(golden, k, beta)
    of_ids = jnp.take_along_axis(logs, np.maximum(ids, 0), axis=-1)
    options = {"beta": beta, "temperature": temperature, "mask": real}
    value, (gradient, _) = _evaluate(golden["student"], of_ids, ids, options)
    square = temperature**2
    np.testing.assert_allclose(value / square, golden["value"][index, i, 1], rtol=1e-9)
    golden_files.assert_gradient(gradient / square, golden["grad_student"][i, 1])


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("block_size", [None, 4])
def test_all_classes_are_the_full_loss(beta, block_size, x64):
  student, teacher = _logits()
  student[0, 2] = teacher[0, 2] = teacher[1, 3] = -np.inf
  if beta == 1.0:
    student[1, 3] = -np.inf
  order = np.argsort(np.random.default_rng(1).standard_normal((ROWS, CLASSES)), axis=1)
  logs = np.take_along_axis(np.asarray(jax.nn.log_softmax(teacher / 2)), order, axis=1)
  options = {"beta": beta, "temperature": 2.0}
  value, (gradient, _) = _evaluate(student, logs, order, options, block_size)
  expected, of_student = jax.value_and_grad(losses.jensen_shannon)(
    student, teacher, **options
  )
  np.testing.assert_allclose(value, expected, rtol=1e-9)
  np.testing.assert_allclose(gradient, of_student, atol=1e-9)


def test_tail_is_the_divergence_of_the_buckets_and_below_the_full_one(x64):
  student, teacher = _logits()
  s, t = (np.asarray(jax.nn.softmax(side)) for side in (student, teacher))
  full = losses.knowledge_distillation(student, teacher, temperature=1.0)
  before = 0.0
  for k in (1, 3, 6):
    ids = np.argsort(-teacher, axis=1)[:, :k]
    of_ids = [np.take_along_axis(side, ids, axis=1) for side in (t, s)]
    p, q = (np.append(side, 1 - side.sum(1, keepdims=True), axis=1) for side in of_ids)
    value, _ = _evaluate(student, np.log(of_ids[0]), ids, {})
    np.testing.assert_allclose(value, (p * np.log(p / q)).sum(1).mean(), rtol=1e-10)
    assert before < value < full
    before = value


def test_right_ratios_with_too_little_mass_are_not_right():
  teacher = jnp.log(jnp.float32([[0.4, 0.2, 0.2, 0.2]]))
  student = jnp.log(jnp.float32([[0.02, 0.01, 0.47, 0.5]]))
  ids = jnp.array([[0, 1]])
  value = losses.top_k_distillation(student, teacher[:, :2], ids=ids)
  np.testing.assert_allclose(
    value, 0.6 * np.log(0.6 / 0.03) + 0.4 * np.log(0.4 / 0.97), rtol=1e-5
  )


@pytest.mark.parametrize("standardize", [False, True])
def test_logits_with_their_normalizer_are_log_probabilities(standardize, x64):
  student, teacher = _logits()
  if standardize:
    teacher = (teacher - teacher.mean(1, keepdims=True)) / (
      1e-7 + teacher.std(1, ddof=1, keepdims=True)
    )
  top, ids = jax.lax.top_k(teacher, 4)
  normalizer = jax.nn.logsumexp(teacher / 3, axis=1)
  options = {"temperature": 3.0, "standardize": standardize}
  values = [
    losses.top_k_distillation(student, side, ids=ids, **more, **options)
    for side, more in (
      (top, {"log_normalizer": normalizer}),
      (top / 3 - normalizer[:, None], {}),
    )
  ]
  np.testing.assert_allclose(*values, rtol=1e-12)
  if standardize:
    every = jnp.argsort(-teacher, axis=1)
    logs = jnp.take_along_axis(jax.nn.log_softmax(teacher / 3), every, axis=1)
    value = losses.top_k_distillation(student, logs, ids=every, **options)
    full = losses.knowledge_distillation(
      student, teacher, temperature=3.0, standardize=True
    )
    np.testing.assert_allclose(value, full, rtol=1e-6)


@pytest.mark.parametrize("block_size", [None, 4, 1])
def test_slots_without_a_class_are_not_read(block_size, x64):
  student, teacher = _logits()
  logs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher), 3)
  expected, gradients = _evaluate(student, logs, ids, {})
  wider = [
    jnp.insert(side, 1, value, axis=1) for side, value in ((logs, jnp.nan), (ids, -1))
  ]
  value, of_wider = _evaluate(student, *wider, {}, block_size)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  np.testing.assert_allclose(of_wider[0], gradients[0], atol=1e-12)
  assert not of_wider[1][:, 1].any()
  # No class at all: one bucket on both sides.
  value, of_none = _evaluate(student, logs, jnp.full_like(ids, -1), {}, block_size)
  assert value == 0
  assert not any(gradient.any() for gradient in of_none)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("block_size", [None, 4])
def test_sure_sides_have_finite_values_and_gradients(beta, block_size):
  student, _ = _logits(np.float32)
  student[0, 0], student[1, 8] = 1e30, 1e30  # all mass inside, and outside
  student[2] = 0
  student[3, 3:] = -200  # hardly any mass outside
  logs = np.log(np.float32([[0.5, 0.3, 0.2]])).repeat(ROWS, axis=0)
  logs[4] = [0, -1e30, -1e4]  # sure
  logs[5] = [-1e30, -100, -1e5]  # nothing inside
  ids = np.tile(np.arange(3, dtype=np.int32), (ROWS, 1))
  value, gradients = _evaluate(student, logs, ids, {"beta": beta}, block_size)
  assert np.isfinite(value)
  assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_classes_that_the_student_rules_out_follow_the_rule_of_infinities(x64):
  student, teacher = _logits()
  student[:, 6:] = teacher[:, 6:] = -np.inf
  logs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher), 6)
  value, (gradient, _) = _evaluate(student, logs, ids, {})
  expected = losses.knowledge_distillation(student, teacher, temperature=1.0)
  np.testing.assert_allclose(value, expected, rtol=1e-9)
  assert np.isfinite(gradient).all()
  value, (gradient, _) = _evaluate(student, logs[:, :3], ids[:, :3], {})
  assert np.isfinite(value)
  student[np.arange(ROWS), ids[:, 5]] = -np.inf  # in the tail: still some mass there
  assert np.isfinite(_evaluate(student, logs[:, :3], ids[:, :3], {})[0])
  student[0, ids[0, 1]] = -np.inf
  value, (gradient, _) = _evaluate(student, logs[:, :3], ids[:, :3], {})
  assert value == np.inf
  assert np.isfinite(gradient).all()
  student[0] = -np.inf
  assert np.isnan(_evaluate(student, logs, ids, {})[0])


def test_bad_teachers_are_refused():
  student, teacher = (jnp.asarray(side, jnp.float32) for side in _logits())
  logs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher), 3)
  with pytest.raises(ValueError, match=r"teacher: expected shape \(6, 'k'\) with k"):
    losses.top_k_distillation(student, logs[:5], ids=ids)
  with pytest.raises(ValueError, match=r"ids: expected shape \(6, 3\), got \(6, 2\)"):
    losses.top_k_distillation(student, logs, ids=ids[:, :2])
  with pytest.raises(ValueError, match="ids: expected classes from 0 to 8.*got 9"):
    losses.top_k_distillation(student, logs, ids=np.full((ROWS, 3), CLASSES))
  beyond = ids.at[2, 1].set(CLASSES)
  assert np.isnan(losses.top_k_distillation(student, logs, ids=beyond))
  real = np.arange(ROWS) != 2
  assert np.isfinite(losses.top_k_distillation(student, logs, ids=beyond, mask=real))
  with pytest.raises(TypeError, match="ids: expected integer class labels"):
    losses.top_k_distillation(student, logs, ids=logs)
  with pytest.raises(ValueError, match=r"log_normalizer: expected shape \(6,\), got"):
    losses.top_k_distillation(student, logs, ids=ids, log_normalizer=logs)

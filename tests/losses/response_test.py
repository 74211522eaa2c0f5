"""Losses on logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


@pytest.mark.slow
def test_cross_entropy_is_the_masked_mean_of_optax():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)
  labels = jnp.arange(6, dtype=jnp.int32) % 4
  rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  mask = jnp.array([1, 1, 0, 1, 0, 1], bool)
  np.testing.assert_allclose(
    losses.cross_entropy(logits, labels), rows.mean(), rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.cross_entropy(logits, labels, mask=mask), rows[mask].mean(), rtol=1e-6
  )


@pytest.mark.slow
def test_smoothed_cross_entropy_is_that_of_smoothed_targets():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
  logits = jnp.pad(logits, ((0, 0), (0, 1)), constant_values=-jnp.inf)
  labels = jnp.array([0, 2, 1, -1], jnp.int32)

  def value(share, logits):
    return losses.cross_entropy(logits, labels, smoothing=share)

  both = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
  found, gradients = both(jnp.float32(0.3), logits)
  targets = optax.smooth_labels(jax.nn.one_hot(labels[:3], 3), 0.3)
  expected = optax.softmax_cross_entropy(logits[:3, :3], targets).mean()
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert all(np.isfinite(gradient).all() for gradient in gradients)
  whole = both(jnp.float32(1), logits.at[0, 0].set(-jnp.inf))[0]
  assert np.isfinite(whole), "a target without a share is not read"


def test_impossible_smoothing_is_refused():
  logits, labels = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
  with pytest.raises(ValueError, match=r"smoothing: expected a number in \[0, 1\]"):
    losses.cross_entropy(logits, labels, smoothing=1.5)
  with pytest.raises(TypeError, match="smoothing: expected a number, got 'much'"):
    losses.cross_entropy(logits, labels, smoothing="much")


@pytest.mark.slow
@pytest.mark.eight_devices
def test_cross_entropy_of_the_global_batch():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4)), jnp.float32)
  labels, mask = jnp.arange(8, dtype=jnp.int32) % 4, jnp.arange(8) < 5
  parts = [x.reshape(8, 1, *x.shape[1:]) for x in (logits, labels, mask)]
  values = jax.pmap(
    lambda *batch: losses.cross_entropy(*batch[:2], mask=batch[2], axis_name="batch"),
    axis_name="batch",
  )(*parts)
  expected = losses.cross_entropy(logits[:5], labels[:5])
  np.testing.assert_allclose(values, np.full(8, expected), rtol=1e-6)


@pytest.mark.slow
def test_cross_entropy_without_a_valid_row_is_zero():
  value = losses.cross_entropy(
    jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), mask=jnp.zeros(2, bool)
  )
  assert value == 0


def test_cross_entropy_refuses_bad_input():
  with pytest.raises(TypeError, match="labels: expected integer"):
    losses.cross_entropy(jnp.ones((2, 3)), jnp.ones(2))
  with pytest.raises(ValueError, match="labels: expected shape"):
    losses.cross_entropy(jnp.ones((2, 3)), jnp.zeros(3, jnp.int32))


def _logits(rows=8, classes=6, seed=0):
  rng = np.random.default_rng(seed)
  return tuple(
    jnp.asarray(2 * rng.standard_normal((rows, classes)), jnp.float32) for _ in range(2)
  )


def _labels(rows=8, classes=6):
  return jnp.arange(rows, dtype=jnp.int32) % classes


def _loss(name):
  if name == "decoupled_kd":
    return lambda s, t, **options: losses.decoupled_kd(
      s, t, labels=_labels(*s.shape), **options
    )
  return getattr(losses, name)


named = pytest.mark.parametrize(
  "name", ["knowledge_distillation", "decoupled_kd", "dist"]
)


TEMPERATURES = (1, 2, 4)


@jax.jit
def _authors_values(student, teacher):
  return [
    jax.value_and_grad(losses.knowledge_distillation)(student, teacher, temperature=t)
    for t in TEMPERATURES
  ]


@golden_files.every_file
def test_authors_distillation_values_are_reproduced(path, x64):
  golden = np.load(path)
  sides = (
    golden[f"{side}_logits"].astype(np.float64) for side in ("student", "teacher")
  )
  for temperature, results in zip(TEMPERATURES, _authors_values(*sides), strict=True):
    golden_files.assert_reproduced(golden, f"kd__T{temperature}", *results)


def _probabilities(logits, temperature):
  powers = np.exp(np.asarray(logits, np.float64) / temperature)
  return powers / powers.sum(1, keepdims=True)


def _relative_entropy(s, t):
  return (t * (np.log(t) - np.log(s))).sum(1)


@pytest.mark.parametrize(
  "name", ["cross_entropy", "knowledge_distillation", "decoupled_kd", "dist"]
)
def test_response_losses_are_invariant_to_shift_and_permutation(name):
  student, teacher = _logits()

  @jax.jit
  def loss(student, teacher, labels):
    if name == "cross_entropy":
      return losses.cross_entropy(student, labels)
    labelled = {"labels": labels} if name == "decoupled_kd" else {}
    return getattr(losses, name)(student, teacher, **labelled)

  labels = _labels()
  expected = loss(student, teacher, labels)
  assert expected > 0.01
  shift = jnp.arange(8, dtype=jnp.float32)[:, None]
  shifted = loss(student + shift, teacher - shift, labels)
  np.testing.assert_allclose(shifted, expected, rtol=1e-4)
  rows = np.random.default_rng(1).permutation(8)
  classes = np.random.default_rng(2).permutation(6)
  permuted = loss(
    student[rows][:, classes],
    teacher[rows][:, classes],
    jnp.asarray(np.argsort(classes))[labels[rows]],
  )
  np.testing.assert_allclose(permuted, expected, rtol=1e-4)
  random = np.random.default_rng(3).standard_normal((6, 6))
  rotation = jnp.asarray(np.linalg.qr(random)[0], jnp.float32)
  for other in (2 * student, student @ rotation):
    assert abs(loss(other, teacher, labels) / expected - 1) > 0.01


@pytest.mark.slow
@named
def test_response_losses_do_not_depend_on_the_batch_size(name):
  student, teacher = _logits()
  twice = [jnp.concatenate([x, x]) for x in (student, teacher)]
  labels = {"labels": jnp.tile(_labels(), 2)} if name == "decoupled_kd" else {}
  once = jax.jit(_loss(name))(student, teacher)
  actual = jax.jit(getattr(losses, name))(*twice, **labels)
  np.testing.assert_allclose(actual, once, rtol=1e-5)


@named
def test_response_losses_refuse_bad_input(name):
  student, teacher = _logits()
  loss = _loss(name)
  with pytest.raises(ValueError, match="temperature: expected a number above 0"):
    loss(student, teacher, temperature=-1.0)
  with pytest.raises(ValueError, match=r"teacher: expected shape \(8, 6\), got \(8, 5"):
    loss(student, teacher[:, :5])
  with pytest.raises(ValueError, match=r"mask: expected shape \(8, 1\), got \(8, 6\)"):
    getattr(losses, name)(
      student[:, None],
      teacher[:, None],
      mask=np.ones((8, 6), bool),
      **({"labels": _labels()[:, None]} if name == "decoupled_kd" else {}),
    )


def test_logits_of_a_single_class_are_refused():
  one, labels = jnp.ones((2, 1)), jnp.zeros(2, jnp.int32)
  for call in (
    lambda: losses.decoupled_kd(one, one, labels=labels),
    lambda: losses.knowledge_distillation(one, one),
    lambda: losses.dist(one, one),
    lambda: losses.cross_entropy(one, labels),
  ):
    with pytest.raises(ValueError, match="two or more classes, .* use two logits"):
      call()


@pytest.mark.slow
def test_relative_entropy_of_near_logits_keeps_its_digits():
  student, _ = _logits()
  teacher = student + 1e-3 * _logits(seed=1)[0]
  s, t = (_probabilities(x, 1) for x in (student, teacher))
  actual = losses.knowledge_distillation(student, teacher, temperature=1.0)
  np.testing.assert_allclose(actual, _relative_entropy(s, t).mean(), rtol=2e-3)

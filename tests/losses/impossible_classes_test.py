"""Logits of minus infinity, NaN and plus infinity, against float64 by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses

ROWS, CLASSES, TEMPERATURE = 6, 5, 4.0
LABELS = np.arange(ROWS, dtype=np.int32) % 2
NAMES = (
  "cross_entropy",
  "decoupled_kd",
  "dist",
  "jensen_shannon",
  "knowledge_distillation",
  "reverse_kl",
)
every_loss = pytest.mark.parametrize("name", NAMES)


def _logits(seed=0):
  rng = np.random.default_rng(seed)
  return [2 * rng.standard_normal((ROWS, CLASSES)) for _ in range(2)]


def _loss(name, labels=LABELS, **options):
  def loss(student, teacher, mask=None):
    labelled = {"labels": labels} if name == "decoupled_kd" else {}
    if name == "cross_entropy":
      return losses.cross_entropy(student, labels, mask=mask, **options)
    return getattr(losses, name)(student, teacher, mask=mask, **labelled, **options)

  return loss


def _evaluate(name, *arguments, **options):
  function = jax.value_and_grad(_loss(name, **options), argnums=(0, 1))
  return jax.jit(function)(*arguments)


def _softmax(row):
  powers = np.exp((row - row.max()) / TEMPERATURE)
  return powers / powers.sum()


def _divergence(teacher, student):
  mass = teacher > 0
  with np.errstate(divide="ignore"):
    logs = np.log(teacher[mass]) - np.log(student[mass])
  return (teacher[mass] * logs).sum()


def _distillation(student, teacher):
  pairs = zip(student, teacher, strict=True)
  rows = [_divergence(_softmax(t), _softmax(s)) for s, t in pairs]
  return TEMPERATURE**2 * np.mean(rows)


def _decoupled(student, teacher):
  rows = []
  for s, t, label in zip(student, teacher, LABELS, strict=True):
    s, t = _softmax(s), _softmax(t)
    binary = (np.array([p[label], 1 - p[label]]) for p in (t, s))
    rest = (np.delete(p, label) / np.delete(p, label).sum() for p in (t, s))
    rows.append(_divergence(*binary) + 8 * _divergence(*rest))
  return TEMPERATURE**2 * np.mean(rows)


BY_HAND = {"knowledge_distillation": _distillation, "decoupled_kd": _decoupled}


def _differences(function, student, teacher):
  """Derivatives of a function of the student by central differences."""
  gradient = np.zeros_like(student)
  for place in zip(*np.nonzero(np.isfinite(student)), strict=True):
    step = np.zeros_like(student)
    step[place] = 1e-6
    ahead, behind = (function(student + h, teacher) for h in (step, -step))
    gradient[place] = (ahead - behind) / 2e-6
  return gradient


@pytest.mark.slow
def test_value_of_the_definition():
  teacher = jnp.array([[1.0, 0, -jnp.inf]])
  value = losses.knowledge_distillation(jnp.zeros((1, 3)), teacher)
  np.testing.assert_allclose(value, 6.6115, atol=5e-5)


@pytest.mark.slow
@every_loss
def test_class_that_both_sides_rule_out_might_not_exist(name, x64):
  sides = _logits()
  expected = _evaluate(name, *(np.delete(side, 3, axis=1) for side in sides))
  for side in sides:
    side[:, 3] = -np.inf
  value, gradients = _evaluate(name, *sides)
  np.testing.assert_allclose(value, expected[0], rtol=1e-12)
  for actual, other in zip(gradients, expected[1], strict=True):
    assert not np.asarray(actual[:, 3]).any()
    np.testing.assert_allclose(np.delete(actual, 3, axis=1), other, atol=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_classes_ruled_out_row_by_row_are_those_by_hand(name, x64):
  student, teacher = _logits()
  student[0, 4] = teacher[0, 4] = -np.inf
  student[1, 2:4] = teacher[1, 1:4] = -np.inf  # the teacher is sure of class 0 or 4
  teacher[2, [1, 3]] = -np.inf
  teacher[4, LABELS[4]] = -np.inf
  student[5, LABELS[5]] = teacher[5, LABELS[5]] = -np.inf
  by_hand = BY_HAND[name]
  value, (gradient, of_teacher) = _evaluate(name, student, teacher)
  np.testing.assert_allclose(value, by_hand(student, teacher), rtol=1e-10)
  expected = _differences(by_hand, student, teacher)
  np.testing.assert_allclose(gradient, expected, atol=1e-7)
  assert np.isfinite(of_teacher).all()


def test_label_as_the_only_possible_class_of_the_teacher(x64):
  student, teacher = _logits()
  for row, label in enumerate(LABELS):
    teacher[row, np.arange(CLASSES) != label] = -np.inf

  def by_hand(student, teacher):
    own = [_softmax(s)[label] for s, label in zip(student, LABELS, strict=True)]
    return -(TEMPERATURE**2) * np.log(own).mean()

  for name in BY_HAND:
    value, (gradient, of_teacher) = _evaluate(name, student, teacher)
    np.testing.assert_allclose(value, by_hand(student, teacher), rtol=1e-10)
    expected = _differences(by_hand, student, teacher)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)
    assert np.isfinite(of_teacher).all()


@pytest.mark.slow
def test_class_that_the_student_alone_rules_out_is_infinitely_wrong(x64):
  student, teacher = _logits()
  student[2, 3] = -np.inf
  function = jax.jit(jax.value_and_grad(losses.knowledge_distillation))
  value, gradient = function(student, teacher)
  assert value == np.inf
  pairs = zip(student, teacher, strict=True)
  expected = np.array([_softmax(s) - _softmax(t) for s, t in pairs])
  expected *= TEMPERATURE / ROWS
  expected[2, 3] = 0  # minus infinity does not move
  np.testing.assert_allclose(gradient, expected, atol=1e-12)

  value, gradient = jax.value_and_grad(_loss("decoupled_kd"))(student, teacher)
  assert value == np.inf
  assert np.isfinite(gradient).all()
  student[2, 3], student[2, LABELS[2]] = 0, -np.inf
  for name in ("cross_entropy", "decoupled_kd"):
    value, gradient = jax.value_and_grad(_loss(name))(student, teacher)
    assert value == np.inf
    assert np.isfinite(np.delete(gradient[2], LABELS[2])).all()
  # Where the teacher's probability is 0 nothing is wrong.
  teacher[2, 3] = -np.inf
  student[2, LABELS[2]], student[2, 3] = 0, -np.inf
  assert np.isfinite(losses.knowledge_distillation(student, teacher))


@pytest.mark.slow
def test_dist_leaves_out_entries_that_both_sides_rule_out(x64):
  student, teacher = _logits()
  student[0, 1] = teacher[0, 1] = -np.inf
  teacher[3, 2] = -np.inf
  s, t = (np.array([_softmax(row) for row in side]) for side in (student, teacher))
  left = np.ones((ROWS, CLASSES), bool)
  left[0, 1] = False
  rows = [1 - np.corrcoef(a[k], b[k])[0, 1] for a, b, k in zip(s, t, left, strict=True)]
  columns = [
    1 - np.corrcoef(a[k], b[k])[0, 1] for a, b, k in zip(s.T, t.T, left.T, strict=True)
  ]
  expected = TEMPERATURE**2 * (np.mean(rows) + np.mean(columns))
  value, gradients = _evaluate("dist", student, teacher, temperature=TEMPERATURE)
  np.testing.assert_allclose(value, expected, rtol=1e-10)
  assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_loss
@pytest.mark.parametrize("broken", ["nan", "inf", "all impossible"])
@pytest.mark.parametrize("side", [0, 1])
def test_broken_logits_give_nan_unless_masked(name, broken, side):
  if name == "cross_entropy" and side:
    pytest.skip("takes no teacher")
  whole = [np.float32(logits) for logits in _logits()]
  mask = np.arange(ROWS) < 4
  evaluate = jax.jit(jax.value_and_grad(_loss(name), argnums=(0, 1)))
  expected = evaluate(*whole, mask)

  def results(row):
    sides = [logits.copy() for logits in whole]
    if broken == "all impossible":
      sides[side][row] = -np.inf
    else:
      sides[side][row, 2] = float(broken)
    return evaluate(*sides, mask)

  for row in range(4):
    assert np.isnan(results(row)[0])
  jax.tree.map(np.testing.assert_array_equal, results(5), expected)


@every_loss
@pytest.mark.parametrize("scale", [1e20, 1e37])
def test_huge_finite_logits_are_never_nan(name, scale):
  student, teacher = (np.float32(scale * logits) for logits in _logits())
  value, gradients = _evaluate(name, student, teacher)
  assert not np.isnan(value)
  assert all(np.isfinite(gradient).all() for gradient in gradients)


OPTIONS = [
  ("knowledge_distillation", "temperature", 3.0),
  ("decoupled_kd", "temperature", 3.0),
  ("decoupled_kd", "alpha", 0.5),
  ("decoupled_kd", "beta", 2.0),
  ("dist", "temperature", 3.0),
  ("dist", "beta", 0.5),
  ("dist", "gamma", 2.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option", "value"), OPTIONS)
def test_options_may_be_traced_and_differentiated(name, option, value, x64):
  student, teacher = _logits()
  teacher[0, 3] = -np.inf
  student[0, 3] = teacher[1, 2] = -np.inf

  def loss(number):
    return _loss(name, **{option: number})(student, teacher)

  def scanned(numbers):
    return jax.lax.scan(lambda carry, x: (carry, loss(x)), (), numbers)[1]

  numbers = np.array([value, value + 1])
  values = jax.jit(scanned)(numbers)
  np.testing.assert_allclose(values, [loss(float(x)) for x in numbers], rtol=1e-12)
  gradient = jax.jit(jax.grad(loss))(value)
  difference = (loss(value + 1e-5) - loss(value - 1e-5)) / 2e-5
  assert difference != 0
  np.testing.assert_allclose(gradient, difference, rtol=1e-6)
  np.testing.assert_allclose(jax.jit(loss)(np.float32(value)), loss(value), rtol=1e-6)
  assert jax.jit(loss)(jnp.bfloat16(value)).dtype == jnp.float64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["knowledge_distillation", "decoupled_kd"])
def test_every_row_may_have_its_temperature(name, x64):
  student, teacher = _logits()
  mask = np.arange(ROWS) < 5
  temperatures = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])
  temperatures = jnp.asarray(temperatures)  # NaN in a masked row

  def loss(temperatures):
    return _loss(name, temperature=temperatures)(student, teacher, mask)

  value, gradient = jax.jit(jax.value_and_grad(loss))(temperatures)
  rows = [
    _loss(name, LABELS[i : i + 1], temperature=float(i + 1))(
      student[i : i + 1], teacher[i : i + 1]
    )
    for i in range(5)
  ]
  np.testing.assert_allclose(value, np.mean(rows), rtol=1e-12)
  assert gradient[:5].all()
  assert gradient[5] == 0


@pytest.mark.parametrize("name", ["knowledge_distillation", "decoupled_kd", "dist"])
def test_temperatures_that_are_none_are_refused(name):
  student, teacher = (np.float32(logits) for logits in _logits())
  for value in (0.0, -1, np.nan, np.inf, np.float32(0)):
    with pytest.raises(ValueError, match="temperature: expected a .*number above 0"):
      _loss(name, temperature=value)(student, teacher)
  with pytest.raises(ValueError, match="temperature: expected a number"):
    _loss(name, temperature=jnp.ones(3))(student, teacher)
  if name == "dist":
    with pytest.raises(ValueError, match=f"temperature: .*shape .{ROWS},"):
      _loss(name, temperature=jnp.ones(ROWS))(student, teacher)


@pytest.mark.parametrize(("name", "option", "value"), OPTIONS)
def test_options_that_are_no_numbers_are_refused(name, option, value):
  student, teacher = (np.float32(logits) for logits in _logits())
  for broken, error in (
    (np.nan, ValueError),
    (-np.inf, ValueError),
    (jnp.ones(2), ValueError),
    ("1", TypeError),
    (1j * value, TypeError),
    (None, TypeError),
  ):
    with pytest.raises(error, match=f"{option}: expected a .*number.*got"):
      _loss(name, **{option: broken})(student, teacher)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["knowledge_distillation", "decoupled_kd", "dist"])
def test_finite_logits_do_not_overflow_at_low_temperatures(name):
  student, teacher = (np.float32(1e37 * logits) for logits in _logits())
  function = jax.value_and_grad(_loss(name, temperature=1e-3), argnums=(0, 1))
  value, gradients = jax.jit(function)(student, teacher)
  assert not np.isnan(value)
  assert all(np.isfinite(gradient).all() for gradient in gradients)

"""Relations between rows: the authors' values, definitions, invariances."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files

LOSSES = [
  losses.similarity_preserving,
  losses.rkd_distance,
  losses.rkd_angle,
  losses.correlation_congruence,
  losses.linear_cka,
  losses.rbf_cka,
]
named = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def _features(rows=10, student=5, teacher=7, seed=0):
  rng = np.random.default_rng(seed)
  make = lambda width: jnp.asarray(rng.standard_normal((rows, width)), jnp.float32)
  return make(student), make(teacher)


_MATRIX = {"reduction": "matrix"}
_AUTHORS = {
  "sp": (losses.similarity_preserving, _MATRIX),
  "sp__map0": (losses.similarity_preserving, _MATRIX),
  "sp__map1": (losses.similarity_preserving, _MATRIX),
  "rkd_distance": (losses.rkd_distance, _MATRIX),
  "rkd_angle": (losses.rkd_angle, _MATRIX),
  "correlation_congruence": (losses.correlation_congruence, {"authors": True}),
}


@jax.jit
def _authors_values(sides):
  return {
    name: jax.value_and_grad(functools.partial(loss, **options))(*sides[name])
    for name, (loss, options) in _AUTHORS.items()
  }


def _authors_sides(golden, name):
  if "map" in name:
    return [
      golden_files.maps(golden, side, name[-1]) for side in ("student", "teacher")
    ]
  student = "student_same_width" if name == "correlation_congruence" else "student"
  return [golden_files.widened(golden, side) for side in (student, "teacher")]


@pytest.mark.slow
@golden_files.every_file
def test_authors_values_and_gradients_are_reproduced(path, x64):
  golden = np.load(path)
  sides = {name: _authors_sides(golden, name) for name in _AUTHORS}
  for name, results in _authors_values(sides).items():
    golden_files.assert_reproduced(golden, name, *results)


def _huber(gaps):
  return np.where(abs(gaps) < 1, gaps**2 / 2, abs(gaps) - 0.5)


def _similarities(x):
  products = x @ x.T
  return products / np.linalg.norm(products, axis=1, keepdims=True)


def _relative_distances(x):
  distances = np.linalg.norm(x[:, None] - x[None, :], axis=-1)
  return distances / distances[~np.eye(len(x), dtype=bool)].mean()


def _angles(x):
  n = len(x)
  cosines = []
  for i in range(n):
    for j in range(n):
      for k in range(n):
        if len({i, j, k}) == 3:
          a, b = x[j] - x[i], x[k] - x[i]
          cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
  return np.array(cosines)


def _correlations(x):
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  cosines = (unit @ unit.T)[~np.eye(len(x), dtype=bool)]
  return math.exp(-0.8) * sum(0.8**p / math.factorial(p) * cosines**p for p in range(3))


def _alignment(k, m):
  h = np.eye(len(k)) - 1 / len(k)
  k, m = h @ k @ h, h @ m @ h
  return (k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m)


def _gaussian(x):
  squared = ((x[:, None] - x[None, :]) ** 2).sum(-1)
  return np.exp(-squared / 2 / squared[~np.eye(len(x), dtype=bool)].mean())


def _definition(loss, student, teacher):
  s, t = (np.asarray(x, np.float64) for x in (student, teacher))
  off_diagonal = ~np.eye(len(s), dtype=bool)
  if loss is losses.similarity_preserving:
    return ((_similarities(s) - _similarities(t)) ** 2).sum(1).mean()
  if loss is losses.rkd_distance:
    return _huber(_relative_distances(s) - _relative_distances(t))[off_diagonal].mean()
  if loss is losses.rkd_angle:
    return _huber(_angles(s) - _angles(t)).mean()
  if loss is losses.correlation_congruence:
    return ((_correlations(s) - _correlations(t)) ** 2).mean()
  if loss is losses.linear_cka:
    return 1 - _alignment(s @ s.T, t @ t.T)
  return 1 - _alignment(_gaussian(s), _gaussian(t))


@named
@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("widths", [(5, 7), (12, 30)])
def test_losses_equal_their_definitions(loss, block_size, widths):
  student, teacher = _features(10, *widths)
  actual = jax.jit(lambda s, t: loss(s, t, block_size=block_size))(student, teacher)
  np.testing.assert_allclose(actual, _definition(loss, student, teacher), rtol=2e-5)


@pytest.mark.slow
@named
def test_loss_of_equal_sides_is_zero(loss):
  student, _ = _features()
  value, gradient = jax.jit(jax.value_and_grad(loss))(student, student)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(gradient, np.zeros((10, 5)), atol=1e-5)


def _transformed(name, x):
  rng = np.random.default_rng(2)
  if name == "rotation":
    return x @ jnp.float32(np.linalg.qr(rng.standard_normal((5, 5)))[0])
  if name == "scale":
    return 3 * x
  if name == "row scale":
    return x * jnp.float32(rng.uniform(0.5, 2, (10, 1)))
  return x + jnp.float32(rng.standard_normal((1, 5)))


INVARIANCES = {
  losses.similarity_preserving: {"rotation", "scale"},
  losses.rkd_distance: {"rotation", "scale", "shift"},
  losses.rkd_angle: {"rotation", "scale", "shift"},
  losses.correlation_congruence: {"rotation", "scale", "row scale"},
  losses.linear_cka: {"rotation", "scale", "shift"},
  losses.rbf_cka: {"rotation", "scale", "shift"},
}


@pytest.mark.slow
@named
def test_invariances_are_those_of_the_documentation(loss):
  student, teacher = _features()
  jitted = jax.jit(loss)
  expected = jitted(student, teacher)
  for name in ("rotation", "scale", "shift", "row scale"):
    for pair in (
      (_transformed(name, student), teacher),
      (teacher, _transformed(name, student)),
    ):
      reference = expected if pair[1] is teacher else jitted(teacher, student)
      change = abs(jitted(*pair) / reference - 1)
      assert (change < 1e-4) == (name in INVARIANCES[loss]), (name, change)
  order = np.random.default_rng(3).permutation(10)
  permuted = jitted(student[order], teacher[order])
  np.testing.assert_allclose(permuted, expected, rtol=1e-4)


@pytest.mark.slow
def test_reductions_differ_by_what_the_documentation_says():
  student, teacher = _features()
  count = 10
  for loss, size in (
    (losses.rkd_distance, count - 1),
    (losses.correlation_congruence, count - 1),
    (losses.rkd_angle, (count - 1) * (count - 2)),
  ):
    mean, rows, matrix = jax.jit(
      lambda s, t, loss=loss: [
        loss(s, t, reduction=name) for name in ("mean", "rows", "matrix")
      ]
    )(student, teacher)
    np.testing.assert_allclose(rows, size * mean, rtol=1e-5)
    power = 2 if loss is losses.rkd_angle else 1
    np.testing.assert_allclose(matrix, rows / count**power, rtol=1e-5)
  loss = losses.similarity_preserving
  rows, matrix = jax.jit(lambda s, t: (loss(s, t), loss(s, t, reduction="matrix")))(
    student, teacher
  )
  np.testing.assert_allclose(matrix, rows / count, rtol=1e-5)


@pytest.mark.slow
@named
def test_loss_does_not_depend_on_batch_size_or_width(loss):
  rng = np.random.default_rng(0)
  signal, maps = rng.standard_normal((96, 4)), rng.standard_normal((2, 4, 8))
  student, teacher = (jnp.float32(np.tanh(signal @ each)) for each in maps)
  jitted = jax.jit(loss)
  large, small = jitted(student, teacher), jitted(student[:32], teacher[:32])
  assert 0.5 < large / small < 2
  wide = jitted(jnp.tile(student[:32], (1, 3)), teacher[:32])
  np.testing.assert_allclose(wide, small, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("authors", [False, True])
def test_correlation_congruence_of_neighbours_skips_padding(authors):
  student, teacher = _features(6, 5, 5)
  places = np.array([0, 1, 4, 5, 8, 9])
  spread = lambda x: jnp.full((10, 5), 7.0).at[places].set(x)
  mask = jnp.zeros(10, bool).at[places].set(True)
  loss = jax.jit(functools.partial(losses.correlation_congruence, authors=authors))
  padded = loss(spread(student), spread(teacher), mask=mask)
  np.testing.assert_allclose(padded, loss(student, teacher), rtol=1e-6)


@pytest.mark.slow
def test_near_rows_keep_their_digits():
  """Differences far below a common mean, against float64."""
  rng = np.random.default_rng(0)
  student, teacher = (
    np.float32(100 + 0.5 * rng.standard_normal((12, width))) for width in (6, 9)
  )
  for loss in LOSSES:
    expected = _definition(loss, student, teacher)
    actual = jax.jit(loss)(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, err_msg=loss.__name__)


@pytest.mark.eight_devices
@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.linear_cka, losses.rkd_angle])
def test_wide_features_of_the_global_batch(loss):
  student, teacher = _features(8, 9, 20)
  mask = jnp.arange(8) < 6

  def value(student, teacher, mask, axis_name=None, block_size=None):
    return loss(student, teacher, mask=mask, axis_name=axis_name, block_size=block_size)

  expected = jax.jit(jax.value_and_grad(value))(student, teacher, mask)
  devices = jax.devices()[:4]
  split = [x.reshape(4, 2, *x.shape[1:]) for x in (student, teacher, mask)]
  values, gradients = jax.pmap(
    jax.value_and_grad(lambda *batch: value(*batch, "batch", 1)),
    axis_name="batch",
    devices=devices,
  )(*split)
  np.testing.assert_allclose(values, np.full(4, expected[0]), rtol=1e-5)
  scale = abs(expected[1]).max()
  np.testing.assert_allclose(
    gradients.reshape(8, -1) / 4, expected[1], rtol=0, atol=1e-5 * scale
  )


@pytest.mark.slow
@named
def test_gradient_steps_reduce_the_loss(loss):
  student, teacher = _features()
  step = jax.jit(jax.value_and_grad(loss))
  first, gradient = step(student, teacher)
  rate = 0.1 * jnp.linalg.norm(student) / jnp.linalg.norm(gradient)
  for _ in range(40):
    _, gradient = step(student, teacher)
    student = student - 0.3 * rate * gradient
  assert step(student, teacher)[0] < 0.6 * first


@pytest.mark.slow
def test_bad_input_is_refused():
  student, teacher = _features()
  with pytest.raises(ValueError, match="gamma: expected a number above 0, got -1"):
    losses.correlation_congruence(student, teacher, gamma=-1)
  with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'rows'"):
    losses.rkd_angle(student, teacher, reduction="sum")
  with pytest.raises(
    ValueError, match="teacher's width with authors=True, got 5 and 7"
  ):
    losses.correlation_congruence(student, teacher, authors=True)

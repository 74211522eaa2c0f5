"""Hint and variational information distillation, and what they learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


def _features(rows=6, student=(5,), teacher=(7,), seed=0):
  rng = np.random.default_rng(seed)
  make = lambda shape: jnp.asarray(rng.standard_normal((rows, *shape)), jnp.float32)
  return make(student), make(teacher)


def _projected_hint(student, teacher, **options):
  params = losses.hint_init(jax.random.key(0), student.shape, teacher.shape)
  return losses.hint(student, teacher, params=params, **options)


def _vid(student, teacher, **options):
  params = losses.vid_init(jax.random.key(0), student.shape, teacher.shape)
  return losses.vid(student, teacher, params=params, **options)


every_loss = pytest.mark.parametrize("loss", [_projected_hint, _vid])


@golden_files.every_file
def test_authors_hint_and_gradient_are_reproduced(path, x64):
  golden = np.load(path)
  sides = (golden[x].astype(np.float64) for x in ("student_same_width", "teacher"))
  loss = functools.partial(losses.hint, reduction="elements")
  results = jax.jit(jax.value_and_grad(loss))(*sides)
  golden_files.assert_reproduced(golden, "hint", *results)


@pytest.mark.slow
def test_hint_is_the_mean_over_rows_of_the_squared_distance():
  student, teacher = _features()
  params = losses.hint_init(jax.random.key(1), (5,), (7,))
  params["bias"] += 0.5
  mapped = np.asarray(student) @ np.asarray(params["kernel"]) + 0.5
  expected = ((mapped - np.asarray(teacher)) ** 2).sum(1).mean()
  actual = losses.hint(student, teacher, params=params)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
  without_bias = losses.hint(student, teacher, params={"kernel": params["kernel"]})
  assert without_bias != actual


@pytest.mark.slow
def test_hint_projects_maps_by_a_convolution_and_pools_the_larger():
  student, teacher = _features(2, (4, 4, 3), (6, 2, 5))
  params = losses.hint_init(jax.random.key(1), student.shape, teacher.shape)
  small = np.asarray(student).reshape(2, 4, 2, 2, 3).mean(3)
  mapped = np.einsum("bhwi,io->bhwo", small, params["kernel"])
  target = np.asarray(teacher)
  target = np.stack(
    [target[:, i * 6 // 4 : -(-(i + 1) * 6 // 4)].mean(1) for i in range(4)], axis=1
  )
  expected = ((mapped - target) ** 2).sum((1, 2, 3)).mean()
  actual = losses.hint(student, teacher, params=params)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_hint_is_invariant_to_rotation_shift_and_permutation():
  student, teacher = _features(teacher=(5,))
  expected = losses.hint(student, teacher)
  random = np.random.default_rng(2).standard_normal((5, 5))
  rotation = jnp.asarray(np.linalg.qr(random)[0], jnp.float32)
  np.testing.assert_allclose(
    losses.hint(student @ rotation, teacher @ rotation), expected, rtol=1e-5
  )
  np.testing.assert_allclose(losses.hint(student + 2, teacher + 2), expected, rtol=1e-5)
  np.testing.assert_allclose(
    losses.hint(student[::-1], teacher[::-1]), expected, rtol=1e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["rows", "elements"])
def test_vid_equals_its_definition(reduction):
  student, teacher = _features(4, (4, 4, 3), (4, 4, 5))
  params = losses.vid_init(jax.random.key(3), (3,), (5,), hidden=6)
  params["variance"] += jnp.arange(5.0)
  mean = np.asarray(student, np.float64)
  for layer, kernel in enumerate(params["kernels"]):
    mean = (np.maximum(mean, 0) if layer else mean) @ np.asarray(kernel, np.float64)
  variance = np.log1p(np.exp(np.asarray(params["variance"], np.float64))) + 1e-5
  terms = ((mean - np.asarray(teacher)) ** 2 / variance + np.log(variance)) / 2
  expected = terms.mean() if reduction == "elements" else terms.sum((1, 2, 3)).mean()
  loss = jax.jit(functools.partial(losses.vid, reduction=reduction))
  actual = loss(student, teacher, params=params)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.slow
@every_loss
def test_loss_does_not_depend_on_the_batch_size(loss):
  sides = _features()
  loss = jax.jit(loss)
  twice = [jnp.concatenate([side, side]) for side in sides]
  np.testing.assert_allclose(loss(*twice), loss(*sides), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("reduction", "factor"), [("rows", 3), ("elements", 1)])
def test_losses_grow_with_the_width_of_the_teacher(reduction, factor):
  student, teacher = _features()
  wide = jnp.tile(teacher, 3)
  params = losses.vid_init(jax.random.key(0), student.shape, teacher.shape)
  *first, last = params["kernels"]
  widened = {
    "kernels": [*first, jnp.tile(last, 3)],
    "variance": jnp.tile(params["variance"], 3),
  }
  vid = jax.jit(functools.partial(losses.vid, reduction=reduction))
  np.testing.assert_allclose(
    vid(student, wide, params=widened),
    factor * vid(student, teacher, params=params),
    rtol=1e-5,
  )
  hint = jax.jit(functools.partial(losses.hint, reduction=reduction))
  np.testing.assert_allclose(
    hint(2 * wide, wide), factor * hint(2 * teacher, teacher), rtol=1e-5
  )


@pytest.mark.parametrize("variance", [1e-3, 1.0, 5.0])
def test_vid_init_sets_the_variance(variance):
  params = losses.vid_init(jax.random.key(0), (2,), (3,), variance=variance)
  actual = jax.nn.softplus(params["variance"]) + 1e-5
  np.testing.assert_allclose(actual, np.full(3, variance), rtol=1e-5)


@pytest.mark.slow
def test_vid_is_invariant_to_permutations_of_rows_and_positions():
  student, teacher = _features(4, (4, 4, 3), (4, 4, 5))
  loss = jax.jit(_vid)
  expected = loss(student, teacher)
  np.testing.assert_allclose(loss(student[::-1], teacher[::-1]), expected, rtol=1e-5)
  np.testing.assert_allclose(
    loss(student[:, ::-1], teacher[:, ::-1]), expected, rtol=1e-5
  )


@pytest.mark.slow
def test_what_is_learnt_learns():
  student, teacher = _features(rows=32)
  teacher = jnp.tanh(student @ jnp.ones((5, 7)) / 3) + 0.01 * teacher
  for init, loss, name in (
    (losses.hint_init, losses.hint, "params"),
    (losses.vid_init, losses.vid, "params"),
  ):
    params = init(jax.random.key(0), student.shape, teacher.shape)
    step = jax.jit(
      jax.value_and_grad(
        lambda params, loss=loss, name=name: loss(
          student, teacher, reduction="elements", **{name: params}
        )
      )
    )
    first, _ = step(params)
    for _ in range(50):
      _, gradient = step(params)
      params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
    assert step(params)[0] < 0.97 * first


@pytest.mark.slow
def test_bad_input_is_refused():
  student, teacher = _features()
  with pytest.raises(ValueError, match="student has 5 channels and teacher 7: pass"):
    losses.hint(student, teacher)
  with pytest.raises(ValueError, match="student has 6, teacher has 5"):
    _projected_hint(student, teacher[1:])
  with pytest.raises(TypeError, match="student: expected a floating-point array"):
    _vid(student.astype(jnp.int32), teacher)
  with pytest.raises(ValueError, match=r"params kernel: expected shape \(5, 7\)"):
    losses.hint(student, teacher, params={"kernel": jnp.ones((7, 5))})
  params = losses.vid_init(jax.random.key(0), (5,), (7,))
  with pytest.raises(ValueError, match=r"params kernel: expected shape \(7, 6\)"):
    losses.vid(student, teacher[:, 1:], params=params)
  with pytest.raises(ValueError, match="to agree in all axes but the last"):
    losses.hint(student[:, None], teacher)
  with pytest.raises(ValueError, match="reduction: expected one of 'rows', 'elements'"):
    _projected_hint(student, teacher, reduction="mean")
  with pytest.raises(ValueError, match=r"mask: expected shape \(6,\), got \(3,\)"):
    _vid(student, teacher, mask=jnp.ones(3, bool))
  with pytest.raises(ValueError, match="epsilon: expected a number above 0, got -1"):
    _vid(student, teacher, epsilon=-1)
  with pytest.raises(ValueError, match="variance - epsilon: expected a number above 0"):
    losses.vid_init(jax.random.key(0), (5,), (7,), variance=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_convolution_of_a_hint_changes_the_size(size):
  """Correlations at all positions, each by its definition."""
  student, teacher = _features(3, (4, 4, 2), (size, size, 3))
  params = losses.hint_init(
    jax.random.key(0), student.shape, teacher.shape, convolution=True
  )
  kernel = np.asarray(params["kernel"], np.float64)
  maps = np.asarray(student, np.float64)
  stride, padding = {2: (2, 1), 0.5: (1, 2)}.get(4 / teacher.shape[1], (1, 0))
  if teacher.shape[1] == 8:
    dilated = np.zeros((3, 7, 7, 2))
    dilated[:, ::2, ::2] = maps
    maps = dilated
  maps = np.pad(maps, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  side, target = kernel.shape[0], teacher.shape[1]
  product = np.stack(
    [
      [
        np.einsum(
          "bhwc,hwcd->bd",
          maps[:, stride * i : stride * i + side, stride * j : stride * j + side],
          kernel,
        )
        for j in range(target)
      ]
      for i in range(target)
    ]
  ).transpose(2, 0, 1, 3)
  normalized = (product - product.mean((0, 1, 2))) / np.sqrt(
    product.var((0, 1, 2)) + 1e-5
  )
  expected = ((np.maximum(normalized, 0) - np.asarray(teacher)) ** 2).mean()
  actual = losses.hint(
    student, teacher, params=params, rectify=True, reduction="elements"
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_convolutions_that_do_not_fit_are_refused():
  student, teacher = _features(2, (3, 3, 2), (4, 4, 3))
  with pytest.raises(ValueError, match="student: expected maps of the size of the tea"):
    losses.hint_init(jax.random.key(0), student.shape, teacher.shape, convolution=True)
  params = losses.hint_init(
    jax.random.key(0), student.shape, student.shape, convolution=True
  )
  with pytest.raises(ValueError, match=r"kernel: expected shape \(1, 1, 3, 2\), got"):
    losses.hint(teacher, teacher[..., :2], params=params)

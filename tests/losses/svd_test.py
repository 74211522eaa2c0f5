"""Distillation by singular values: the authors' values, equal singular values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax.losses import _svd
from tests.losses import golden_files


def _layers(golden, side):
  count = sum(name.startswith("student_") for name in golden.files)
  return [golden_files.channels_last(golden[f"{side}_{i}"]) for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "vectors"), [("kdsvd_1", "channels"), ("kdsvd_mdistiller_0", "columns")]
)
def test_ports_are_reproduced_with_their_signs(name, vectors, x64, monkeypatch):
  golden = golden_files.load(name)
  used = {
    golden[key].shape: golden[key]
    for key in golden.files
    if key.startswith("teacher_v")
  }

  def signed(ours):
    cosines = (ours * used[ours.shape]).sum(1, keepdims=True)
    return ours * jnp.sign(jax.lax.stop_gradient(cosines))

  monkeypatch.setattr(_svd, "_signed", signed)
  student, teacher = _layers(golden, "student"), _layers(golden, "teacher")
  loss = functools.partial(
    losses.kdsvd, teacher=teacher, rank=int(golden["k"]), vectors=vectors
  )
  value, gradients = jax.jit(jax.value_and_grad(lambda taps: loss(taps)))(student)
  golden_files.assert_near(value, golden["value"], 1e-8)
  for gradient, expected in zip(
    gradients, _layers(golden, "grad_student"), strict=True
  ):
    golden_files.assert_near(gradient, expected, 1e-7)


def _maps(*channels, seed=0):
  rng = np.random.default_rng(seed)
  return [
    jnp.asarray(np.abs(rng.standard_normal((3, 4, 5, each))), jnp.float32)
    for each in channels
  ]


STUDENT, TEACHER = _maps(3, 4), _maps(3, 4, seed=1)


@pytest.mark.slow
def test_loss_is_invariant_to_scale_and_positions():
  loss = jax.jit(losses.kdsvd)
  expected = loss(STUDENT, TEACHER)
  assert expected > 0
  changed = [1e6 * STUDENT[0][:, ::-1], STUDENT[1][:, :, ::-1]]
  np.testing.assert_allclose(loss(changed, TEACHER), expected, rtol=1e-3)
  changed = [TEACHER[0], 1e-6 * TEACHER[1][:, ::-1]]
  np.testing.assert_allclose(loss(STUDENT, changed), expected, rtol=1e-3)


def _equal(maps):
  """Maps whose singular values are all equal."""
  batch, height, width, channels = maps.shape
  columns = np.eye(height * width, channels, dtype=np.float32)
  return jnp.broadcast_to(columns.reshape(1, height, width, channels), maps.shape)


CASES = {
  "equal singular values": _equal,
  "zero": jnp.zeros_like,
  "constant": jnp.ones_like,
  "huge": lambda maps: 1e30 * maps,
  "tiny": lambda maps: 1e-30 * maps,
  "one channel": lambda maps: maps.at[..., 1:].set(0),
  "twice": lambda maps: maps.at[..., 1].set(maps[..., 0]),
}


@pytest.mark.slow
def test_gradient_is_finite_where_singular_values_are_equal():
  loss = jax.jit(
    jax.value_and_grad(functools.partial(losses.kdsvd, rank=2), argnums=(0, 1))
  )
  for name, edit in CASES.items():
    for sides in (
      ([edit(maps) for maps in STUDENT], TEACHER),
      (STUDENT, [edit(maps) for maps in TEACHER]),
      ([edit(maps) for maps in STUDENT], [edit(maps) for maps in TEACHER]),
    ):
      value, gradients = loss(*sides)
      assert np.isfinite(value), name
      assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)), name


def test_derivative_of_eigenvectors_is_that_of_differences(x64):
  rng = np.random.default_rng(0)
  matrix, change = rng.standard_normal((2, 1, 4, 4))
  matrix, change = (x + x.transpose(0, 2, 1) for x in (matrix, change))
  align = lambda x: jax.tree.map(lambda y: y, _svd._eigen(jnp.asarray(x)))
  (values, vectors), slopes = jax.jvp(_svd._eigen, (matrix,), (change,))
  later, earlier = align(matrix + 1e-6 * change), align(matrix - 1e-6 * change)
  np.testing.assert_allclose(slopes[0], (later[0] - earlier[0]) / 2e-6, rtol=1e-6)
  signs = [np.sign((x[1] * vectors).sum(1, keepdims=True)) for x in (later, earlier)]
  difference = (later[1] * signs[0] - earlier[1] * signs[1]) / 2e-6
  np.testing.assert_allclose(slopes[1], difference, atol=1e-6)
  assert values[0, 0] > values[0, -1]


def test_wrong_layers_are_refused():
  with pytest.raises(ValueError, match="two or more layers, .* got 1 of the student"):
    losses.kdsvd(STUDENT[:1], TEACHER[:1])
  with pytest.raises(ValueError, match="number of channels in map 0 .* got 4 and 3"):
    losses.kdsvd(STUDENT[::-1], TEACHER)
  with pytest.raises(ValueError, match="rank: expected at most 3, .* got 4"):
    losses.kdsvd(STUDENT, TEACHER, rank=4)
  with pytest.raises(ValueError, match="vectors: expected one of 'channels'"):
    losses.kdsvd(STUDENT, TEACHER, vectors="rows")
  with pytest.raises(TypeError, match="teacher: the order of the taps matters here"):
    losses.kdsvd(STUDENT, dict(enumerate(TEACHER)))

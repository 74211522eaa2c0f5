"""Conditional-probability losses: the authors' values, and the corrected form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import losses
from tests.losses import golden_files


def _features(seed=0, rows=12, student=5, teacher=9):
  rng = np.random.default_rng(seed)
  make = lambda width: jnp.asarray(rng.standard_normal((rows, width)), jnp.float32)
  return make(student), make(teacher)


@functools.cache
def _authors_divergence(kernel):
  """One compilation a shape for all divergences: which one is an argument."""
  divergences = [
    information.authors_divergence(name) for name in information.DIVERGENCES
  ]

  def loss(student, teacher, index):
    return losses.conditional_divergence(
      student,
      teacher,
      kernel=kernels.authors_kernel(kernel),
      divergence=lambda *logs: jax.lax.switch(index, divergences, *logs),
      self_pairs=True,
      reduction="matrix",
    )

  return jax.jit(jax.value_and_grad(loss))


@golden_files.every_file
@pytest.mark.parametrize("kernel", kernels.KERNELS)
def test_authors_values_and_gradients_are_reproduced(path, kernel, x64):
  golden = np.load(path)
  sides = [golden_files.widened(golden, side) for side in ("student", "teacher")]
  for index, divergence in enumerate(information.DIVERGENCES):
    results = _authors_divergence(kernel)(*sides, index)
    golden_files.assert_reproduced(golden, f"hkd__{kernel}__{divergence}", *results)


_AUTHORS_LOSSES = {
  "hkd__combined__combined": jax.jit(
    jax.value_and_grad(lambda s, t: losses.information_flow([s], [t], authors=True))
  ),
  "pkt__cosine__kl": jax.jit(
    jax.value_and_grad(lambda s, t: losses.pkt(s, t, authors=True))
  ),
}


@golden_files.every_file
@pytest.mark.parametrize("name", _AUTHORS_LOSSES)
def test_authors_combined_loss_and_pkt_are_reproduced(path, name, x64):
  golden = np.load(path)
  sides = [golden_files.widened(golden, side) for side in ("student", "teacher")]
  results = _AUTHORS_LOSSES[name](*sides)
  golden_files.assert_reproduced(golden, name, *results)


def _definition(student, teacher, kernel_name):
  """Passalis et al. 2020, Eq. 5-8, in float64 with loops."""
  probabilities = []
  for features in (student, teacher):
    x = np.asarray(features, np.float64)
    if kernel_name == "cosine":
      unit = x / np.linalg.norm(x, axis=1, keepdims=True)
      k = (1 + unit @ unit.T) / 2
    else:
      k = 1 / (1 + np.linalg.norm(x[:, None] - x[None, :], axis=-1))
    np.fill_diagonal(k, 0)
    probabilities.append(k / k.sum(1, keepdims=True))
  s, t = probabilities
  total = 0.0
  for i in range(len(s)):
    for j in range(len(s)):
      if i != j:
        total += (t[i, j] - s[i, j]) * (np.log(t[i, j]) - np.log(s[i, j]))
  return total / len(s)


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", ["cosine", "student_t"])
def test_conditional_divergence_equals_its_definition(name, block_size):
  student, teacher = _features()
  loss = functools.partial(
    losses.conditional_divergence, kernel=kernels.by_name(name), block_size=block_size
  )
  actual = jax.jit(loss)(student, teacher)
  np.testing.assert_allclose(actual, _definition(student, teacher, name), rtol=1e-4)


def test_several_kernels_are_summed():
  student, teacher = _features()
  pair = [kernels.cosine(), kernels.student_t()]
  together = losses.conditional_divergence(student, teacher, kernel=pair)
  apart = [losses.conditional_divergence(student, teacher, kernel=k) for k in pair]
  np.testing.assert_allclose(together, sum(apart), rtol=1e-5)


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_blocks_change_neither_value_nor_gradient(name):
  student, teacher = _features(rows=13)

  def loss(student, block_size):
    return losses.conditional_divergence(
      student, teacher, kernel=kernels.by_name(name), block_size=block_size
    )

  value_and_grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  dense, blocked = value_and_grad(student, None), value_and_grad(student, 4)
  np.testing.assert_allclose(dense[0], blocked[0], rtol=1e-5)
  np.testing.assert_allclose(dense[1], blocked[1], rtol=1e-3, atol=1e-7)


def test_matrix_reduction_is_smaller_by_the_batch_size():
  student, teacher = _features()
  rows = losses.conditional_divergence(student, teacher)
  matrix = losses.conditional_divergence(student, teacher, reduction="matrix")
  np.testing.assert_allclose(rows, 12 * matrix, rtol=1e-6)


def test_loss_is_invariant_to_rotation_and_permutation():
  student, teacher = _features()
  rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((5, 5)))[0]
  order = np.random.default_rng(3).permutation(12)
  expected = losses.information_flow([student], [teacher])
  rotated = losses.information_flow([student @ jnp.float32(rotation)], [teacher])
  permuted = losses.information_flow([student[order]], [teacher[order]])
  np.testing.assert_allclose(rotated, expected, rtol=1e-4)
  np.testing.assert_allclose(permuted, expected, rtol=1e-4)


def test_gradient_steps_reduce_the_loss():
  student, teacher = _features()
  loss = jax.jit(jax.value_and_grad(lambda s: losses.pkt(s, teacher)))
  first, _ = loss(student)
  for _ in range(50):
    _, gradient = loss(student)
    student -= 5.0 * gradient
  assert loss(student)[0] < 0.5 * first


def test_bad_input_is_refused():
  student, teacher = _features()
  with pytest.raises(ValueError, match="student has 12, teacher has 11"):
    losses.conditional_divergence(student, teacher[1:])
  with pytest.raises(ValueError, match="reduction: expected one of 'rows', 'matrix'"):
    losses.conditional_divergence(student, teacher, reduction="sum")
  with pytest.raises(TypeError, match="teacher: expected a floating-point array"):
    losses.pkt(student, teacher.astype(jnp.int32))
  with pytest.raises(ValueError, match=r"mask: expected shape \(12,\), got \(3,\)"):
    losses.pkt(student, teacher, mask=jnp.ones(3, bool))

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
      kernels=kernels.authors_kernel(kernel),
      divergence=lambda *logs: jax.lax.switch(index, divergences, *logs),
      self_pairs=True,
      reduction="matrix",
    )

  return jax.jit(jax.value_and_grad(loss))


@pytest.mark.slow
@golden_files.every_file
@pytest.mark.parametrize("kernel", kernels.AUTHORS_KERNELS)
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


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("name", ["cosine", "student_t"])
def test_conditional_divergence_equals_its_definition(name, block_size):
  student, teacher = _features()
  loss = functools.partial(
    losses.conditional_divergence, kernels=kernels.by_name(name), block_size=block_size
  )
  actual = jax.jit(loss)(student, teacher)
  np.testing.assert_allclose(actual, _definition(student, teacher, name), rtol=1e-4)


@pytest.mark.slow
def test_several_kernels_are_summed():
  student, teacher = _features()
  pair = [kernels.cosine(), kernels.student_t()]
  loss = losses.conditional_divergence
  together, *apart = jax.jit(
    lambda s, t: [loss(s, t, kernels=kernel) for kernel in (pair, *pair)]
  )(student, teacher)
  np.testing.assert_allclose(together, sum(apart), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", kernels.KERNELS)
def test_blocks_change_neither_value_nor_gradient(name):
  student, teacher = _features(rows=13)

  def loss(student, block_size):
    return losses.conditional_divergence(
      student, teacher, kernels=kernels.by_name(name), block_size=block_size
    )

  value_and_grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  dense, blocked = value_and_grad(student, None), value_and_grad(student, 4)
  np.testing.assert_allclose(dense[0], blocked[0], rtol=1e-5)
  np.testing.assert_allclose(dense[1], blocked[1], rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_matrix_reduction_is_smaller_by_the_batch_size():
  student, teacher = _features()
  loss = losses.conditional_divergence
  rows, matrix = jax.jit(lambda s, t: (loss(s, t), loss(s, t, reduction="matrix")))(
    student, teacher
  )
  np.testing.assert_allclose(rows, 12 * matrix, rtol=1e-6)


_LABELS = np.arange(96, dtype=np.int32) % 3


def _labelled(student, teacher):
  labels = _LABELS[: student.shape[0]]
  return losses.quadratic_flow([student], [teacher], labels=labels, num_classes=3)


def _with_kernel(name):
  kernel = kernels.by_name(name)
  return functools.partial(losses.conditional_divergence, kernels=kernel)


INVARIANCES = {
  "cosine": (_with_kernel("cosine"), {"rotation", "scale", "row scale"}),
  "student_t": (_with_kernel("student_t"), {"rotation", "shift"}),
  "rbf": (_with_kernel("rbf"), {"rotation", "shift"}),
  "adaptive_rbf": (_with_kernel("adaptive_rbf"), {"rotation", "shift", "scale"}),
  "cauchy": (_with_kernel("cauchy"), {"rotation", "shift"}),
  "pkt": (losses.pkt, {"rotation", "scale", "row scale"}),
  "information_flow": (lambda s, t: losses.information_flow([s], [t]), {"rotation"}),
  "quadratic_flow": (_labelled, {"rotation"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INVARIANCES)
def test_invariances_are_those_of_the_documentation(name):
  student, teacher = _features()
  rng = np.random.default_rng(2)
  rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
  changes = {
    "rotation": student @ jnp.float32(rotation),
    "scale": 3 * student,
    "row scale": student * jnp.float32(rng.uniform(0.5, 2, (12, 1))),
    "shift": student + jnp.float32(rng.standard_normal((1, 5))),
  }
  loss, invariances = INVARIANCES[name]
  loss = jax.jit(loss)
  for change, changed in changes.items():
    difference = abs(loss(changed, teacher) / loss(student, teacher) - 1)
    assert (difference < 1e-4) == (change in invariances), (change, difference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "pkt", "information_flow"])
def test_loss_does_not_depend_on_batch_size_or_width(name):
  rng = np.random.default_rng(0)
  signal, maps = rng.standard_normal((96, 4)), rng.standard_normal((2, 4, 8))
  student, teacher = (jnp.float32(np.tanh(signal @ each)) for each in maps)
  loss = jax.jit(INVARIANCES[name][0])
  large, small = loss(student, teacher), loss(student[:48], teacher[:48])
  assert 0.5 < large / small < 2
  wide = loss(*(jnp.tile(side[:48], (1, 3)) for side in (student, teacher)))
  assert 0.5 < wide / small < 2


@pytest.mark.slow
def test_quadratic_flow_does_not_depend_on_the_batch_size():
  sides = _features()
  twice = [jnp.concatenate([side, side]) for side in sides]
  loss = jax.jit(_labelled)
  np.testing.assert_allclose(loss(*twice), loss(*sides), rtol=1e-4)


@pytest.mark.slow
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


@pytest.mark.slow
def test_pkt_keeps_its_gradient_under_a_large_common_mean():
  rng = np.random.default_rng(0)
  sides = [(rng.standard_normal((16, 8)) + 1000).astype(np.float32) for _ in range(2)]
  gradient = jax.jit(jax.grad(losses.pkt, argnums=(0, 1)))
  actual = gradient(*sides)
  with jax.enable_x64(True):
    expected = gradient(*(side.astype(np.float64) for side in sides))
  for one, other in zip(actual, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=3e-3 * np.abs(other).max())


@pytest.mark.parametrize("scale", [1e-30, 1e-11, 1e11, 1e30])
@pytest.mark.parametrize(
  "loss", [losses.pkt, losses.rkd_distance, losses.rbf_cka, losses.linear_cka]
)
def test_extreme_scales_change_nothing(loss, scale):
  rng = np.random.default_rng(0)
  student, teacher = rng.standard_normal((2, 8, 5)).astype(np.float32)
  function = jax.jit(jax.value_and_grad(loss))
  value, gradient = function(np.float32(scale) * student, teacher)
  expected, reference = function(student, teacher)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  scaled = np.asarray(gradient, np.float64) * scale
  np.testing.assert_allclose(
    scaled, reference, rtol=0, atol=1e-4 * abs(reference).max()
  )

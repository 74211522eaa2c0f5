"""DIST."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


def _logits(rows=8, classes=6, seed=0):
  rng = np.random.default_rng(seed)
  return tuple(
    jnp.asarray(2 * rng.standard_normal((rows, classes)), jnp.float32) for _ in range(2)
  )


def _probabilities(logits, temperature):
  powers = np.exp(np.asarray(logits, np.float64) / temperature)
  return powers / powers.sum(1, keepdims=True)


def test_dist_equals_its_definition():
  student, teacher = _logits()
  s, t = (_probabilities(x, 2) for x in (student, teacher))
  rows = np.mean([1 - np.corrcoef(s[i], t[i])[0, 1] for i in range(8)])
  columns = np.mean([1 - np.corrcoef(s[:, c], t[:, c])[0, 1] for c in range(6)])
  loss = functools.partial(losses.dist, beta=2.0, gamma=3.0, temperature=2.0)
  actual = jax.jit(loss)(student, teacher)
  np.testing.assert_allclose(actual, 4 * (2 * rows + 3 * columns), rtol=1e-5)


@pytest.mark.slow
def test_dist_of_rows_all_alike_counts_classes_without_variation():
  student, teacher = _logits()
  alike = jnp.broadcast_to(student[:1], student.shape)
  intra = jax.jit(jax.value_and_grad(lambda s, t: losses.dist(s, t, beta=0.0)))
  assert intra(alike, alike)[0] == 0
  value, gradient = intra(alike, teacher)
  np.testing.assert_allclose(value, 1, rtol=1e-6)
  assert not gradient.any()


@golden_files.second_set("dist")
def test_rows_and_maps_are_those_of_the_authors(golden, x64):
  """Loss of the authors, without the 1e-8 that they add to products of norms."""
  weights = {name: golden[name] for name in ("beta", "gamma")}

  def check(sides, suffix, **options):
    value, gradient = jax.jit(jax.value_and_grad(losses.dist))(
      *sides, **weights, **options
    )
    np.testing.assert_allclose(value, golden[f"value{suffix}"], rtol=1e-6)
    expected = golden[f"grad_student{suffix}"]
    if expected.ndim == 4:
      expected = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, atol=1e-6 * abs(expected).max())

  rows = [golden[side] for side in ("student", "teacher")]
  check(rows, "")
  check(rows, "_tau", temperature=golden["tau"])
  maps = [golden[f"{side}_map"] for side in ("student", "teacher")]
  check([side.transpose(0, 2, 3, 1) for side in maps], "_map")

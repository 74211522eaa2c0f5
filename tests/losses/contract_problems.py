"""Problems and compiled calls that all tests of the contract of losses share."""

import functools

import jax
import numpy as np
import pytest

from tests.losses.contract_rows import BATCH
from tests.losses.contract_rows import ROWS

CASES = 16
# Losses that read -inf as probability 0.
LOGITS = (
  "cross_entropy",
  "decoupled_kd",
  "dist",
  "jensen_shannon",
  "knowledge_distillation",
  "multi_level_distillation",
  "reverse_kl",
  "skew_kl",
  "top_k_distillation",
  "transformed_teacher_matching",
)


every_loss = pytest.mark.parametrize("name", ROWS)


def example(name, seed=0, batch=BATCH, dtype=np.float32):
  rng = np.random.default_rng(seed)
  shapes = ROWS[name].student, ROWS[name].teacher
  return [rng.standard_normal((batch, *shape)).astype(dtype) for shape in shapes]


def ids(batch=BATCH):
  return np.arange(batch, dtype=np.int32)


def value_and_grad(name, **fixed):
  call = ROWS[name].call

  def loss(student, teacher, ids, mask):
    return call(student, teacher, ids, mask=mask, **fixed)

  return jax.value_and_grad(loss, argnums=(0, 1))


@functools.cache
def plain(name):
  """Value and gradients of one problem; compiled once a dtype."""
  return jax.jit(value_and_grad(name))


@functools.cache
def many(name):
  """The same of many problems, under `vmap`."""
  return jax.jit(jax.vmap(value_and_grad(name), in_axes=(0, 0, None, 0)))


@functools.cache
def many_recomputed(name):
  """The same under `checkpoint` too."""
  call = ROWS[name].call

  @jax.checkpoint
  def loss(student, teacher, ids, mask):
    return call(student, teacher, ids, mask=mask)

  function = jax.value_and_grad(loss, argnums=(0, 1))
  return jax.jit(jax.vmap(function, in_axes=(0, 0, None, 0)))


def assert_close(actual, expected, tolerance=1e-6):
  """Value to 1e-3 or better; gradients relative to their largest entry, and cosine."""
  value, *gradients = (np.asarray(x, np.float64) for x in jax.tree.leaves(actual))
  reference, *references = (
    np.asarray(x, np.float64) for x in jax.tree.leaves(expected)
  )
  np.testing.assert_allclose(value, reference, rtol=min(tolerance, 1e-3))
  for one, other in zip(gradients, references, strict=True):
    size = abs(other).max()
    if size == 0:
      assert not one.any()
      continue
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * size)
    one, other = (x.ravel() for x in (one, other))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine >= 0.9999


def mask(kind):
  counts = {"all": BATCH, "most": 11, "one": 1, "none": 0}
  return np.arange(BATCH) < counts[kind]


with_blocks = pytest.mark.parametrize(
  "name", [name for name in ROWS if ROWS[name].blocks]
)


@functools.cache
def blocked(name):
  return jax.jit(value_and_grad(name, block_size=5))


def not_finite(name):
  """Pairs of a side and a value that its features may not hold."""
  values = (
    (np.nan, np.inf) if name.split(",")[0] in LOGITS else (np.nan, np.inf, -np.inf)
  )
  takes_teacher = "both sides" not in ROWS[name].exempt or ROWS[name].teacher_constant
  return [(side, value) for side in range(1 + takes_teacher) for value in values]

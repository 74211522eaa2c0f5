"""Sums of terms of log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax.losses import _logits
from flowkd_jax.losses import _softmax

ROWS, WORDS, BLOCK = 256, 32768, 256


def _rows():
  logits = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
  logits[1, 2] = -np.inf
  return _logits.read(None, logits=logits)


def test_terms_are_of_log_softmax():
  rows = _rows()
  temperature = jnp.float32([2.0])

  def terms(logs, options, columns, constants):
    kept = columns[None, :] > constants[:, None]
    return jnp.where(kept, jnp.exp(logs[0]) * options[0], 0)

  option, constants = jnp.float32(3), jnp.array([0, 2, 4], jnp.int32)
  expected = jax.nn.softmax(rows.sides[0] / 2) * 3
  for size in (5, 2):
    sums = _softmax.term_sums(
      rows, terms, [temperature], [option], constants, block_size=size
    )
    kept = [expected[0, 1:].sum(), expected[1, 3:].sum(), 0]
    np.testing.assert_allclose(sums, kept, rtol=1e-6)


def test_normalizers_are_of_the_largest_probability():
  rows = _rows()
  for size in (5, 2):
    largest, mass = _softmax.normalizers(rows, jnp.float32([3.0]), block_size=size)
    np.testing.assert_allclose(largest, rows.sides[0].max(1) / 3, rtol=1e-6)
    np.testing.assert_allclose(
      mass, 1 / jax.nn.softmax(rows.sides[0] / 3).max(1), rtol=1e-6
    )


def test_possible_classes_are_counted():
  np.testing.assert_array_equal(_softmax.possible_classes(_rows()), [5, 4, 5])


def _temporary_bytes(dtype, standardize, block_size):
  shape = jax.ShapeDtypeStruct((ROWS, WORDS), dtype)

  def loss(student, teacher):
    return losses.knowledge_distillation(
      student, teacher, standardize=standardize, block_size=block_size
    )

  compiled = jax.jit(jax.value_and_grad(loss)).lower(shape, shape).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("standardize", [False, True])
def test_blocks_make_no_array_of_all_words_in_float32(dtype, standardize):
  """One gradient is held beside the blocks, in its own dtype."""
  own = ROWS * WORDS * jnp.dtype(dtype).itemsize
  blocked = _temporary_bytes(dtype, standardize, BLOCK)
  assert blocked < own + 32 * 4 * ROWS * BLOCK
  assert blocked < _temporary_bytes(dtype, standardize, WORDS) / 2

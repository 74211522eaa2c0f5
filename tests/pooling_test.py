"""Pooling of tokens and maps, against NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import pooling

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(4, 5, 3)).astype(np.float32)
WEIGHTS = RNG.uniform(size=(4, 5)).astype(np.float32)
MASK = np.array(
  [[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool
)


def _weighted(values, weights, mask):
  rows = []
  for value, weight, real in zip(values, weights, mask, strict=True):
    total = sum(weight[real])
    row = sum((w * v for w, v in zip(weight[real], value[real], strict=True)), 0)
    rows.append(row / total if total else np.zeros(values.shape[-1]))
  return np.stack(rows)


@pytest.mark.slow
def test_mean_is_that_of_the_real_positions():
  ones = np.ones_like(WEIGHTS)
  np.testing.assert_allclose(pooling.mean(TOKENS), TOKENS.mean(1), rtol=1e-5)
  expected = _weighted(TOKENS.astype(np.float64), ones, MASK)
  np.testing.assert_allclose(pooling.mean(TOKENS, mask=MASK), expected, atol=1e-6)
  maps = TOKENS.reshape(2, 2, 5, 3)
  np.testing.assert_allclose(pooling.mean(maps), maps.mean((1, 2)), rtol=1e-5)


@pytest.mark.slow
def test_attention_is_a_weighted_mean():
  expected = _weighted(TOKENS.astype(np.float64), WEIGHTS, MASK)
  for scale in (1, 1000):
    actual = pooling.attention(TOKENS, scale * WEIGHTS, mask=MASK)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
  scores = RNG.normal(size=(4, 5)).astype(np.float32)
  soft = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
  np.testing.assert_allclose(
    pooling.attention(TOKENS, jax.nn.softmax(scores)),
    np.einsum("bt,btd->bd", soft, TOKENS),
    atol=1e-6,
  )
  np.testing.assert_array_equal(pooling.attention(TOKENS, 0 * WEIGHTS), 0)


def test_class_token_is_picked_unless_it_is_masked():
  np.testing.assert_array_equal(pooling.class_token(TOKENS), TOKENS[:, 0])
  np.testing.assert_array_equal(
    pooling.class_token(TOKENS, index=-1, mask=MASK),
    np.where(MASK[:, -1:], TOKENS[:, -1], 0),
  )


def _poolings(tokens, weights):
  return {
    "mean": pooling.mean(tokens, mask=MASK),
    "attention": pooling.attention(tokens, weights, mask=MASK),
    "class token": pooling.class_token(tokens, mask=MASK),
  }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_masked_nans_reach_neither_values_nor_gradients(dtype):
  tokens = jnp.where(MASK[..., None], TOKENS, jnp.nan).astype(dtype)
  weights = jnp.where(MASK, WEIGHTS, jnp.inf)

  @jax.jit
  def both(tokens, weights):
    def loss(tokens, weights):
      pooled = _poolings(tokens, weights)
      return sum(jnp.square(rows).sum() for rows in pooled.values()), pooled

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(tokens, weights)

  (_, pooled), gradients = both(tokens, weights)
  for name, rows in pooled.items():
    assert rows.dtype == jnp.float32
    assert np.isfinite(rows).all(), name
    np.testing.assert_array_equal(rows[3], 0, err_msg=name)
  for gradient in gradients:
    gradient = np.asarray(gradient, np.float32)
    assert np.isfinite(gradient).all()
    assert (gradient[~MASK] == 0).all()
    assert (gradient[:3] != 0).any()


@pytest.mark.slow
def test_gradient_of_the_weights_is_that_of_the_quotient():
  cotangent = RNG.normal(size=(4, 3)).astype(np.float32)
  loss = lambda weights: (cotangent * pooling.attention(TOKENS, weights)).sum()
  total = WEIGHTS.sum(1, keepdims=True)
  centred = TOKENS - np.einsum("bt,btd->bd", WEIGHTS / total, TOKENS)[:, None]
  expected = np.einsum("bd,btd->bt", cotangent, centred) / total
  np.testing.assert_allclose(jax.grad(loss)(WEIGHTS), expected, atol=1e-5)


@pytest.mark.parametrize(
  ("call", "error", "match"),
  [
    (lambda: pooling.mean(TOKENS[:, 0]), ValueError, r"tap: expected .*shape \(4, 3\)"),
    (lambda: pooling.mean(TOKENS.astype(int)), TypeError, "tap: expected a floating"),
    (lambda: pooling.mean(TOKENS, mask=MASK[:2]), ValueError, "mask: expected shape"),
    (
      lambda: pooling.attention(TOKENS, MASK),
      TypeError,
      "weights: expected a float",
    ),
    (
      lambda: pooling.attention(TOKENS, WEIGHTS[:, :2]),
      ValueError,
      r"weights: expected shape \(4, 5\), got \(4, 2\)",
    ),
    (
      lambda: pooling.class_token(TOKENS.reshape(2, 2, 5, 3)),
      ValueError,
      r"tokens: expected .*\[batch, tokens, dim\].*a map has no class token",
    ),
    (
      lambda: pooling.class_token(TOKENS, index=5),
      ValueError,
      "of 5 tokens, got 5",
    ),
    (
      lambda: pooling.class_token(TOKENS, mask=MASK[:, :2]),
      ValueError,
      "mask: expected shape",
    ),
  ],
)
def test_bad_input_is_refused(call, error, match):
  with pytest.raises(error, match=match):
    call()


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1), (7, 2), (7, 5)])
def test_average_pool_averages_from_floor_to_ceiling(size):
  maps = np.random.default_rng(0).standard_normal((2, 7, 10, 3))
  expected = np.zeros((2, *size, 3))
  for row, column in np.ndindex(size):
    top, bottom = row * 7 // size[0], math.ceil((row + 1) * 7 / size[0])
    left, right = column * 10 // size[1], math.ceil((column + 1) * 10 / size[1])
    expected[:, row, column] = maps[:, top:bottom, left:right].mean((1, 2))
  actual = pooling.average_pool(jnp.asarray(maps, jnp.float32), *size)
  np.testing.assert_allclose(actual, expected, atol=1e-6)

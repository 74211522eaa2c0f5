"""The vision transformer, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax.models import VisionTransformer

TINY = VisionTransformer(width=4, depth=2, num_heads=2, patch_size=2, num_classes=3)
IMAGES = np.random.default_rng(0).normal(size=(3, 4, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
  """Random variables; compiling the initialisation takes longer than the test."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(TINY.init, jax.random.key(0), IMAGES)
  draw = lambda v: jnp.asarray(rng.uniform(-0.5, 0.5, v.shape), v.dtype)
  return {"params": jax.tree.map(draw, shapes["params"])}


def _norm(x, params):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * params["scale"] + params["bias"]


def _attention(x, params):
  project = lambda name: (
    np.einsum("btd,dhk->bthk", x, params[name]["kernel"]) + params[name]["bias"]
  )
  query, key, value = map(project, ("query", "key", "value"))
  scores = np.einsum("bqhk,bthk->bhqt", query, key) / np.sqrt(query.shape[-1])
  weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  mixed = np.einsum("bhqt,bthk->bqhk", weights, value)
  return (
    np.einsum("bqhk,hkd->bqd", mixed, params["out"]["kernel"]) + (params["out"]["bias"])
  )


def _gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _expected(params):
  """Logits and taps, from the equations of the paper's section 3.1."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  patches = IMAGES.reshape(3, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5)
  kernel = params["patches"]["kernel"].reshape(8, 4)
  x = patches.reshape(3, 6, 8) @ kernel + params["patches"]["bias"]
  token = np.broadcast_to(params["class_token"], (3, 1, 4))
  x = np.concatenate([token, x], 1) + params["positions"]
  taps = {}
  for name in ("block_1", "block_2"):
    block = params[name]
    x = x + _attention(_norm(x, block["norm_1"]), block["attention"])
    hidden = _norm(x, block["norm_2"]) @ block["expand"]["kernel"]
    hidden = _gelu(hidden + block["expand"]["bias"])
    x = x + hidden @ block["contract"]["kernel"] + block["contract"]["bias"]
    taps[name] = x
  taps["class_token"] = _norm(x[:, 0], params["norm"])
  classifier = params["classifier"]
  return taps["class_token"] @ classifier["kernel"] + classifier["bias"], taps


@pytest.mark.slow
def test_network_is_that_of_the_paper(variables):
  logits, taps = jax.jit(lambda v, x: capture.apply_with_taps(TINY, v, x))(
    variables, IMAGES
  )
  expected, expected_taps = _expected(variables["params"])
  assert TINY.taps == tuple(expected_taps)
  for name, tap in taps.items():
    np.testing.assert_allclose(tap, expected_taps[name], atol=1e-5, err_msg=name)
  np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.optimizer  # Flax's LayerNorm too promotes dtypes silently.
def test_masked_images_change_nothing_else_and_bfloat16_is_kept(variables):
  half = TINY.clone(dtype=jnp.bfloat16)
  images = jnp.asarray(IMAGES).at[2].set(jnp.nan)
  mask = jnp.array([True, True, False])
  logits, taps = capture.apply_with_taps(half, variables, images, mask=mask)
  assert logits.dtype == jnp.float32
  assert {tap.dtype for tap in taps.values()} == {jnp.dtype(jnp.bfloat16)}
  expected, _ = _expected(variables["params"])
  np.testing.assert_allclose(logits[:2], expected[:2], atol=0.1)
  assert np.isfinite(logits).all()


@pytest.mark.parametrize(
  ("model", "images", "match"),
  [
    (TINY, IMAGES[:, :3], r"images: expected .* multiples of 2.* got 3 x 6"),
    (TINY, IMAGES[:, :1], "images: VisionTransformer needs at least 2 x 2"),
    (TINY.clone(num_heads=3), IMAGES, "width: expected a multiple of 3.*, got 4"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(model, images, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), images)

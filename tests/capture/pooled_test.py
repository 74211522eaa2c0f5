"""Models whose taps with positions are pooled."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import pooling
from flowkd_jax.models import CNN

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)


class Tokens(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, images):
    return self.embed(images[..., 0]).mean(1)


def _both(model, variables, pool, **options):
  plain = capture.apply_with_taps(model, variables, IMAGES, **options)
  pooled = capture.pooled(model, pool)
  return *plain, *capture.apply_with_taps(pooled, variables, IMAGES, **options)


@pytest.mark.slow
def test_maps_are_pooled_and_rows_are_not():
  model = CNN(width=2, num_blocks=2, padding="SAME")
  variables = capture.init(model, jax.random.key(0), IMAGES)
  logits, taps, same, pooled = _both(model, variables, pooling.mean)
  np.testing.assert_allclose(same, logits, atol=1e-6)
  assert list(pooled) == list(taps) == list(model.taps)
  for name in ("block_1", "block_2"):
    expected = np.asarray(taps[name]).mean((1, 2))
    np.testing.assert_allclose(pooled[name], expected, atol=1e-6)
  np.testing.assert_allclose(pooled["dense"], taps["dense"], atol=1e-6)
  view = capture.pooled(model, pooling.mean)
  listed = capture.list_taps(view, variables, IMAGES)
  assert {tap.name: tap.shape for tap in listed}["block_2"] == (4, 4)
  shapes = capture.tap_shapes(view, variables, IMAGES)
  assert shapes == {"block_1": (4, 2), "block_2": (4, 4), "dense": (4, 16)}


@pytest.mark.slow
def test_tokens_of_other_frameworks_are_pooled():
  model, variables = capture.from_nnx(Tokens(nnx.Rngs(0)), taps=["embed"])
  _, taps, _, pooled = _both(model, variables, pooling.class_token)
  assert taps["embed"].shape == (4, 8, 3)
  np.testing.assert_array_equal(pooled["embed"], taps["embed"][:, 0])


@pytest.mark.slow
def test_taps_of_a_model_that_declares_none_can_be_given():
  class Stranger(nn.Module):
    @nn.compact
    def __call__(self, images, train):
      x = nn.relu(nn.Dense(3, name="hidden")(images.reshape(images.shape[0], -1)))
      return nn.Dense(2, name="head")(x)

  model = capture.with_taps(Stranger(), ["head", "hidden"])
  variables = capture.init(model, jax.random.key(0), IMAGES)
  logits, taps = capture.apply_with_taps(
    model, variables, IMAGES, train=True, mask=np.ones(4, bool)
  )
  assert list(taps) == ["head", "hidden"]
  np.testing.assert_array_equal(taps["head"], logits)
  assert model.taps == ("head", "hidden")


def test_what_is_no_model_is_refused():
  with pytest.raises(TypeError, match="model: expected a flax.linen.Module, .*a Dense"):
    capture.pooled(type("Dense", (), {})(), pooling.mean)
  with pytest.raises(TypeError, match=r"model: .*capture.from_nnx.* got a Tokens"):
    capture.with_taps(Tokens(nnx.Rngs(0)), ["embed"])

"""Layers initialised as in PyTorch, and the check of the input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.models import _building_blocks


class _Layers(nn.Module):
  @nn.compact
  def __call__(self, images):
    x = _building_blocks.convolution(images, 64, name="conv", padding="VALID")
    x = x.reshape(x.shape[0], -1)
    return _building_blocks.dense(x, 100, name="dense", dtype=jnp.float32)


@pytest.mark.slow
def test_layers_start_uniform_within_the_root_of_the_fan_in():
  images = jnp.zeros((1, 3, 3, 4))
  params = jax.jit(_Layers().init)(jax.random.key(0), images)["params"]
  for name, fan_in in (("conv", 9 * 4), ("dense", 64)):
    for leaf in jax.tree.leaves(params[name]):
      limit = 1 / np.sqrt(fan_in)
      assert 0.9 * limit < np.abs(leaf).max() <= limit
      assert abs(np.mean(leaf)) < 0.25 * limit
      np.testing.assert_allclose(np.std(leaf), limit / np.sqrt(3), rtol=0.2)
  assert params["conv"]["kernel"].shape == (3, 3, 4, 64)
  assert params["dense"]["bias"].shape == (100,)


def _prepare(images, mask=None, dtype=jnp.bfloat16):
  return _building_blocks.prepare_images(
    images, mask, smallest=4, network="Net", dtype=dtype
  )


@pytest.mark.slow
def test_prepare_images_casts_and_blackens_what_is_masked():
  images = jnp.ones((2, 4, 4, 1)).at[1].set(jnp.nan)
  prepared = _prepare(images, jnp.array([True, False]))
  assert prepared.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(prepared.sum((1, 2, 3))), [16, 0])
  gradient = jax.grad(
    lambda x: (_prepare(x, jnp.array([True, False]), jnp.float32) ** 2).sum()
  )(images)
  np.testing.assert_array_equal(gradient[:, 0, 0, 0], [2, 0])


@pytest.mark.parametrize(
  ("images", "error", "match"),
  [
    (np.zeros((2, 4, 4), np.float32), ValueError, r"images: .* got shape \(2, 4, 4\)"),
    (np.zeros((0, 4, 4, 1), np.float32), ValueError, "images: expected a non-empty"),
    (
      np.zeros((2, 8, 3, 1), np.float32),
      ValueError,
      "Net needs at least 4 x 4 .* 8 x 3",
    ),
    (np.zeros((2, 4, 4, 1), np.uint8), TypeError, "images: expected a floating"),
  ],
)
def test_images_that_do_not_fit_are_refused(images, error, match):
  with pytest.raises(error, match=match):
    _prepare(images)

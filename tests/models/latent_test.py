"""The client's network of FedGen and its generator."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.models._latent import StridedConvolution


def random_array(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def model():
  return models.LatentCNN(width=3, latent=5, num_classes=4)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5), (1, 2)])
def test_strided_convolution_is_that_of_flax(height, width):
  x = random_array((2, height, width, 3))
  plain = nn.Conv(5, (3, 3), strides=2, padding=1)
  params = {"kernel": random_array((3, 3, 3, 5), 1), "bias": random_array((5,), 2)}
  expected = plain.apply({"params": params}, x)
  actual = StridedConvolution(5).apply({"params": params}, x)
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  shapes = jax.eval_shape(StridedConvolution(5).init, jax.random.key(0), x)["params"]
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_latent_cnn_has_the_sizes_of_the_paper():
  model = models.LatentCNN()
  images = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  assert set(variables["params"]) == {"encoder", "classifier"}
  encoder = jax.tree.map(jnp.shape, variables["params"]["encoder"])
  assert encoder["conv_1"]["kernel"] == (3, 3, 1, 6)
  assert encoder["conv_2"]["kernel"] == (3, 3, 6, 16)
  assert encoder["latent"]["kernel"] == (784, 32)
  shapes = capture.tap_shapes(model, variables, images)
  assert shapes == {
    "conv_1": (3, 14, 14, 6),
    "conv_2": (3, 7, 7, 16),
    "latent": (3, 32),
  }


@pytest.mark.slow
def test_classify_makes_logits_of_latents_with_the_classifier_alone(model):
  images = random_array((3, 8, 8, 1))
  variables = capture.init(model, jax.random.key(0), images)
  logits, taps = capture.apply_with_taps(model, variables, images)
  assert taps["latent"].min() < 0  # no activation
  head = {"params": {"classifier": variables["params"]["classifier"]}}
  classified = model.apply(head, taps["latent"], method="classify")
  np.testing.assert_array_equal(classified, logits)


@pytest.mark.slow
def test_masked_images_cannot_reach_a_gradient(model):
  images = random_array((3, 8, 8, 1)).at[1].set(jnp.nan)
  mask = jnp.array([True, False, True])
  variables = capture.init(model, jax.random.key(0), images)
  gradients = jax.grad(lambda v: model.apply(v, images, mask=mask)[::2].sum())(
    variables
  )
  for gradient in jax.tree.leaves(gradients):
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_latent_cnn_computes_in_bfloat16(model):
  model = model.clone(dtype=jnp.bfloat16)
  images = random_array((2, 8, 8, 1))
  variables = capture.init(model, jax.random.key(0), images)
  logits, taps = capture.apply_with_taps(model, variables, images)
  assert {tap.dtype for tap in taps.values()} == {jnp.dtype(jnp.bfloat16)}
  assert logits.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {logits.dtype}


@pytest.mark.slow
def test_generator_is_two_dense_layers_of_noise_and_label():
  generator = models.LatentGenerator(latent=3, num_classes=4, hidden=6)
  noise, labels = random_array((5, 2)), jnp.array([0, 3, 1, 1, 2])
  params = generator.init(jax.random.key(0), noise, labels)["params"]
  latents = generator.apply({"params": params}, noise, labels)
  inputs = np.concatenate([noise, np.eye(4)[labels]], 1)
  hidden, latent = (
    jax.tree.map(np.asarray, params[name]) for name in ("hidden", "latent")
  )
  hidden = np.maximum(inputs @ hidden["kernel"] + hidden["bias"], 0)
  np.testing.assert_allclose(
    latents, hidden @ latent["kernel"] + latent["bias"], atol=1e-5
  )


@pytest.mark.slow
def test_latent_cnn_refuses_flat_images(model):
  with pytest.raises(ValueError, match="images: expected a non-empty array of shape"):
    model.init(jax.random.key(0), jnp.zeros((2, 64)))

"""Taps of Equinox modules that know nothing of us."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flowkd_jax import capture

IMAGES = np.random.default_rng(0).normal(size=(5, 3, 4, 1)).astype(np.float32)


class Block(eqx.Module):
  norm: eqx.nn.LayerNorm
  linear: eqx.nn.Linear
  dropout: eqx.nn.Dropout

  def __init__(self, key):
    self.norm = eqx.nn.LayerNorm(4)
    self.linear = eqx.nn.Linear(4, 4, key=key)
    self.dropout = eqx.nn.Dropout(0.5)

  def __call__(self, tokens, *, key=None):
    tokens = tokens + jax.vmap(self.linear)(jax.vmap(self.norm)(tokens))
    return self.dropout(tokens, key=key)


class Stranger(eqx.Module):
  """Blocks in a list, on three tokens of four; then the same layer, scanned."""

  blocks: list[Block]
  layers: eqx.nn.Linear
  head: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key, 6)
    self.blocks = [Block(keys[0]), Block(keys[1])]
    self.layers = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(keys[2:5])
    self.head = eqx.nn.Linear(4, 2, key=keys[5])

  def __call__(self, image, *, key=None):
    tokens = image[:, :, 0]
    for block in self.blocks:
      tokens = jax.checkpoint(lambda x, b=block: b(x, key=key))(tokens)
    arrays, static = eqx.partition(self.layers, eqx.is_array)

    def step(x, layer):
      return jnp.tanh(eqx.combine(layer, static)(x)), None

    x, _ = lax.scan(step, tokens.mean(0), arrays)
    return self.head(x)


@pytest.fixture(scope="module")
def stranger():
  return Stranger(jax.random.key(0))


def _expected(stranger, images):
  """Every tap in evaluation mode, in NumPy."""
  x, taps = images[..., 0], {}
  for i, block in enumerate(stranger.blocks):
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt(x.var(-1, keepdims=True) + block.norm.eps)
    taps[f"blocks/{i}/norm"] = normed
    linear = normed @ np.asarray(block.linear.weight).T + np.asarray(block.linear.bias)
    taps[f"blocks/{i}/linear"] = linear
    x = taps[f"blocks/{i}"] = taps[f"blocks/{i}/dropout"] = x + linear
  x = x.mean(1)
  for i in range(3):
    weight, bias = np.asarray(stranger.layers.weight[i]), stranger.layers.bias[i]
    x = taps[f"layers/{i}"] = x @ weight.T + np.asarray(bias)
    x = np.tanh(x)
  taps["head"] = x @ np.asarray(stranger.head.weight).T + np.asarray(stranger.head.bias)
  return taps


@pytest.mark.slow
def test_every_tap_of_a_module_is_what_it_computes(stranger):
  model, variables = capture.from_equinox(stranger)
  listed = capture.list_taps(model, variables, IMAGES)
  assert not any(tap.sown for tap in listed)
  expected = _expected(stranger, IMAGES)
  output, taps = jax.jit(
    lambda v, x: capture.apply_with_taps(model, v, x, taps=["**"])
  )(variables, IMAGES)
  assert {tap.name for tap in listed} == set(taps) == set(expected)
  for name, tap in taps.items():
    np.testing.assert_allclose(tap, expected[name], atol=1e-5, err_msg=name)
  np.testing.assert_array_equal(output, taps["head"])
  assert {tap.name: tap.shape for tap in listed}["blocks/1/linear"] == (5, 3, 4)


@pytest.mark.slow
def test_taps_are_declared_and_wrong_paths_refused(stranger):
  model, variables = capture.from_equinox(stranger, taps=["blocks/*", "layers/2"])
  _, taps = capture.apply_with_taps(model, variables, IMAGES)
  assert list(taps) == ["blocks/0", "blocks/1", "layers/2"]
  with pytest.raises(
    ValueError, match=r"taps: Stranger has no layer/2; it sows nothing .*layers/2"
  ):
    capture.apply_with_taps(model, variables, IMAGES, taps=["layer/2"])


@pytest.mark.slow
def test_evaluation_is_the_default_and_training_takes_keys(stranger):
  model, variables = capture.from_equinox(stranger)
  capture.check_evaluation(model, variables, IMAGES)

  @jax.jit
  def dropped(key):
    return capture.apply_with_taps(
      model,
      variables,
      IMAGES,
      taps=["blocks/0"],
      train=True,
      rngs={"dropout": key},
    )[1]["blocks/0"]

  first = np.asarray(dropped(jax.random.key(0))) == 0
  assert 0.2 < first.mean() < 0.8
  assert (first[0] != first[1]).any()  # each row its own
  assert (first != (np.asarray(dropped(jax.random.key(1))) == 0)).any()


@pytest.mark.slow
def test_module_is_new_and_has_the_variables(stranger):
  model, variables = capture.from_equinox(stranger)
  variables["params"]["head/bias"] = stranger.head.bias + 1
  module = model.module(variables)
  np.testing.assert_array_equal(module.head.bias, stranger.head.bias + 1)
  logits, _ = capture.apply_with_taps(model, variables, IMAGES)
  module = eqx.nn.inference_mode(module)
  np.testing.assert_allclose(jax.vmap(module)(jnp.asarray(IMAGES)), logits, rtol=1e-6)


def test_gradients_flow_through_scanned_layers(stranger):
  model, variables = capture.from_equinox(stranger)

  def loss(params):
    _, taps = capture.apply_with_taps(
      model, {"params": params}, IMAGES, taps=["layers/1"]
    )
    return jnp.square(taps["layers/1"]).sum()

  gradient = jax.jit(jax.grad(loss))(variables["params"])
  by_layer = np.abs(gradient["layers/weight"]).sum((1, 2))
  assert (by_layer[:2] > 0).all()
  assert by_layer[2] == 0
  assert np.abs(gradient["blocks/0/linear/weight"]).sum() > 0


class Normalised(eqx.Module):
  norm: eqx.nn.BatchNorm

  def __init__(self):
    self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")

  def __call__(self, image, state, *, key=None):
    return self.norm(image[0, :, 0], state)


@pytest.mark.slow
def test_modules_with_a_state_are_used_in_evaluation_only():
  module, state = eqx.nn.make_with_state(Normalised)()
  model, variables = capture.from_equinox(module, state=state)
  assert set(variables) == {"params", "state"}
  output, taps = capture.apply_with_taps(model, variables, IMAGES, taps=["norm"])
  # Running mean 0, variance 1 at first.
  np.testing.assert_allclose(output, IMAGES[:, 0, :, 0], rtol=1e-3)
  np.testing.assert_array_equal(taps["norm"], output)
  capture.check_evaluation(model, variables, IMAGES)
  with pytest.raises(ValueError, match="train: .* Normalised has a state, .* got True"):
    capture.apply_with_taps(model, variables, IMAGES, train=True)


def test_what_is_no_module_is_refused():
  with pytest.raises(TypeError, match=r"expected an equinox.Module, got a dict; Linen"):
    capture.from_equinox({})


def test_weights_that_are_not_finite_are_refused_by_name(stranger):
  broken = eqx.tree_at(
    lambda module: module.head.bias, stranger, replace_fn=lambda x: x.at[0].set(jnp.nan)
  )
  with pytest.raises(ValueError, match="model: expected .* params/head/bias;"):
    capture.from_equinox(broken)

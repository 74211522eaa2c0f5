"""Taps of NNX modules that know nothing of us."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flowkd_jax import capture

IMAGES = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)


class Block(nnx.Module):
  def __init__(self, width, rngs):
    self.linear = nnx.Linear(width, width, rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    return self.dropout(nnx.relu(self.norm(self.linear(x))))


class Stranger(nnx.Module):
  """Blocks in a list, one of them rematerialised, then three scanned layers."""

  def __init__(self, rngs):
    self.blocks = nnx.List([Block(4, rngs) for _ in range(2)])

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def layers(rngs):
      return nnx.Linear(4, 4, rngs=rngs)

    self.layers = layers(rngs)
    self.head = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, images):
    x = images.reshape(images.shape[0], -1)
    x = nnx.remat(lambda block, x: block(x))(self.blocks[0], x)
    x = self.blocks[1](x)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def scan(x, layer):
      return nnx.tanh(layer(x))

    x = scan(x, self.layers)
    self.sow(nnx.Intermediate, "before_head", x)
    return self.head(x)


@pytest.fixture(scope="module")
def stranger():
  return Stranger(nnx.Rngs(0))


def _expected(stranger, images):
  """Every tap in evaluation mode, in NumPy."""
  read = lambda variable: np.asarray(variable[...])
  x, taps = images.reshape(4, -1), {}
  for i, block in enumerate(stranger.blocks):
    x = x @ read(block.linear.kernel) + read(block.linear.bias)
    taps[f"blocks/{i}/linear"] = x
    norm = block.norm
    x = (x - read(norm.mean)) / np.sqrt(read(norm.var) + norm.epsilon)
    taps[f"blocks/{i}/norm"] = x * read(norm.scale) + read(norm.bias)
    x = taps[f"blocks/{i}"] = np.maximum(taps[f"blocks/{i}/norm"], 0)
  for layer in range(3):
    x = x @ read(stranger.layers.kernel)[layer] + read(stranger.layers.bias)[layer]
    taps[f"layers/{layer}"] = x
    x = np.tanh(x)
  taps["before_head"] = x
  taps["head"] = x @ read(stranger.head.kernel) + read(stranger.head.bias)
  return taps


@pytest.mark.slow
def test_every_tap_of_a_module_is_what_it_computes(stranger):
  model, variables = capture.from_nnx(stranger)
  names = {tap.name for tap in capture.list_taps(model, variables, IMAGES)}
  expected = _expected(stranger, IMAGES)
  assert names == {*expected, "blocks/0/dropout", "blocks/1/dropout"}
  wanted = ["blocks/*", "blocks/*/linear", "**/norm", "layers/*", "before_head", "head"]
  output, taps = jax.jit(
    lambda v, x: capture.apply_with_taps(model, v, x, taps=wanted)
  )(variables, IMAGES)
  assert set(taps) == set(expected)
  for name, tap in taps.items():
    np.testing.assert_allclose(tap, expected[name], atol=1e-5, err_msg=name)
  np.testing.assert_array_equal(output, taps["head"])


@pytest.mark.slow
def test_what_is_sown_comes_by_itself_and_declared_taps_too(stranger):
  _, taps = capture.apply_with_taps(*capture.from_nnx(stranger), IMAGES)
  assert list(taps) == ["before_head"]
  model, variables = capture.from_nnx(stranger, taps=["layers/2", "blocks/?"])
  assert list(capture.tap_shapes(model, variables, IMAGES)) == [
    "layers/2",
    "blocks/0",
    "blocks/1",
  ]
  assert capture.tap_shapes(model, variables, IMAGES, taps=()) == {}
  assert capture.init(model, jax.random.key(3), IMAGES) == variables


@pytest.mark.slow
def test_wrong_paths_name_the_nearest_right_ones(stranger):
  model, variables = capture.from_nnx(stranger)
  with pytest.raises(
    ValueError,
    match=r"taps: Stranger has no block/0; it sows before_head and has the modules "
    r"blocks/0/linear, .*, head; did you mean blocks/0 ",
  ):
    capture.apply_with_taps(model, variables, IMAGES, taps=["block/0"])


@pytest.mark.slow
def test_evaluation_is_the_default_and_training_takes_keys(stranger):
  model, variables = capture.from_nnx(stranger)
  capture.check_evaluation(model, variables, IMAGES)
  with pytest.raises(
    ValueError, match="rngs: .* Stranger draws random numbers in train"
  ):
    capture.apply_with_taps(model, variables, IMAGES, train=True)

  @jax.jit
  def train(key):
    return capture.apply_with_taps(
      model,
      variables,
      IMAGES,
      taps=["blocks/0", "blocks/0/norm"],
      train=True,
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )

  (_, taps), updated = train(jax.random.key(0))
  normed = np.asarray(taps["blocks/0/norm"])
  np.testing.assert_allclose(normed.mean(0), 0, atol=1e-5)
  dropped = np.asarray(taps["blocks/0"])
  kept = (dropped != 0) | (normed <= 0)
  assert not kept.all()
  linear = _expected(stranger, IMAGES)["blocks/0/linear"]
  np.testing.assert_allclose(
    updated["batch_stats"]["blocks/0/norm/mean"], 0.01 * linear.mean(0), atol=1e-6
  )
  (_, others), _ = train(jax.random.key(1))
  assert (np.asarray(others["blocks/0"]) != dropped).any()
  assert set(updated["batch_stats"]) == set(variables["batch_stats"])


def test_module_itself_stays_as_it_was(stranger):
  before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(stranger, nnx.Param)))
  model, variables = capture.from_nnx(stranger)
  capture.apply_with_taps(model, variables, IMAGES, taps=["blocks/0"])
  assert type(stranger.blocks[0]) is Block
  assert not stranger.blocks[0].dropout.deterministic
  after = nnx.to_pure_dict(nnx.state(stranger, nnx.Param))
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert not nnx.to_pure_dict(nnx.state(stranger, nnx.Intermediate))


def test_module_is_new_and_has_the_variables(stranger):
  model, variables = capture.from_nnx(stranger)
  head = stranger.head.bias[...]
  variables["params"]["head/bias"] = head + 1
  module = model.module(variables)
  np.testing.assert_array_equal(module.head.bias[...], head + 1)
  np.testing.assert_array_equal(stranger.head.bias[...], head)
  again, its_variables = capture.from_nnx(module)
  logits, _ = capture.apply_with_taps(model, variables, IMAGES)
  same, _ = capture.apply_with_taps(again, its_variables, IMAGES)
  np.testing.assert_array_equal(same, logits)


def test_gradients_flow_through_scanned_layers(stranger):
  model, variables = capture.from_nnx(stranger)

  def loss(params):
    given = {**variables, "params": params}
    _, taps = capture.apply_with_taps(model, given, IMAGES, taps=["layers/1"])
    return jnp.square(taps["layers/1"]).sum()

  gradient = jax.jit(jax.grad(loss))(variables["params"])
  by_layer = np.abs(gradient["layers/kernel"]).sum((1, 2))
  assert (by_layer[:2] > 0).all()
  assert by_layer[2] == np.abs(gradient["head/kernel"]).sum() == 0
  assert np.abs(gradient["blocks/0/linear/kernel"]).sum() > 0


class Obstinate(nnx.Module):
  """Normalises by the batch, whatever mode it is in."""

  def __init__(self, rngs):
    self.norm = nnx.BatchNorm(4, rngs=rngs)

  def __call__(self, images):
    x = images.reshape(images.shape[0], -1)
    return self.norm(x, use_running_average=False)


@pytest.mark.slow
def test_teachers_in_training_mode_are_found_out():
  model, variables = capture.from_nnx(Obstinate(nnx.Rngs(0)))
  with pytest.raises(ValueError, match="model: Obstinate is not in evaluation mode"):
    capture.check_evaluation(model, variables, IMAGES)
  with pytest.raises(ValueError, match="images: expected four or more, got 3"):
    capture.check_evaluation(model, variables, IMAGES[:3])


def test_what_is_no_module_is_refused(stranger):
  with pytest.raises(TypeError, match=r"expected a flax.nnx.Module, got a dict; Linen"):
    capture.from_nnx({})
  with pytest.raises(TypeError, match=r"model: .*capture.from_nnx.* got a Stranger"):
    capture.apply_with_taps(stranger, {}, IMAGES)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused_by_name():
  module = Stranger(nnx.Rngs(0))
  norm = module.blocks[1].norm
  norm.var[...] = norm.var[...].at[2].set(jnp.inf)
  with pytest.raises(ValueError, match="model: .* in batch_stats/blocks/1/norm/var;"):
    capture.from_nnx(module)
  capture.from_nnx(nnx.eval_shape(lambda: Stranger(nnx.Rngs(0))))

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec

from flowkd_jax.models import CNN
from flowkd_jax.models._cnn import smallest_image


def images_of(shape=(6, 8, 8, 1), seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def variables_of(model, images):
  """Random variables; compiling the initialisation takes longer than the test."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree.map(
    lambda v: jnp.asarray(rng.uniform(0.1, 0.5, v.shape), v.dtype), shapes
  )


DIGITS = CNN(width=2, num_blocks=2, padding="SAME")


@pytest.mark.parametrize(
  ("width", "parameters", "sizes"),
  [(8, 15050, (1800, 576, 128, 64)), (16, 57994, (3600, 1152, 256, 128))],
)
def test_cnn_has_the_sizes_of_the_paper(width, parameters, sizes):
  model = CNN(width=width)
  images = jax.ShapeDtypeStruct((5, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  leaves = jax.tree.leaves(variables["params"])
  assert sum(leaf.size for leaf in leaves) == parameters
  logits, state = jax.eval_shape(
    lambda v, x: model.apply(v, x, train=False, mutable=["intermediates"]),
    variables,
    images,
  )
  assert logits.shape == (5, 10)
  assert model.taps == ("block_1", "block_2", "block_3", "dense")
  shapes = [state["intermediates"][tap][0].shape for tap in model.taps]
  assert [len(shape) for shape in shapes] == [4, 4, 4, 2]
  assert tuple(int(np.prod(shape[1:])) for shape in shapes) == sizes


def test_cnn_takes_digits():
  variables = variables_of(DIGITS, images_of())
  assert set(variables) == {"params", "batch_stats"}
  logits, state = jax.eval_shape(
    lambda v, x: DIGITS.apply(v, x, train=False, mutable=["intermediates"]),
    variables,
    images_of(),
  )
  assert logits.shape == (6, 10)
  assert tuple(state["intermediates"]) == DIGITS.taps
  assert state["intermediates"]["block_2"][0].shape == (6, 2, 2, 4)


@pytest.mark.slow
def test_cnn_initialises_as_pytorch():
  model = CNN(width=32, num_blocks=1)
  images = images_of((1, 4, 4, 3))
  params = jax.jit(model.init)(jax.random.key(0), images)["params"]
  for name, fan_in in {"conv_1": 27, "hidden": 32, "classifier": 256}.items():
    for leaf in params[name].values():
      largest = float(jnp.abs(leaf).max()) * np.sqrt(fan_in)
      assert 0.7 < largest <= 1, name


@pytest.mark.slow
def test_cnn_computes_in_bfloat16_with_float32_parameters():
  model = DIGITS.clone(dtype=jnp.bfloat16)
  variables = variables_of(model, images_of())

  def run(model):
    return jax.jit(
      lambda x: model.apply(
        variables, x, train=True, mutable=["batch_stats", "intermediates"]
      )
    )(images_of())

  logits, state = run(model)
  stored = jax.tree.leaves((variables, state["batch_stats"], logits))
  assert {leaf.dtype for leaf in stored} == {jnp.dtype("float32")}
  taps = jax.tree.leaves(state["intermediates"])
  assert {tap.dtype for tap in taps} == {jnp.dtype("bfloat16")}
  np.testing.assert_allclose(logits, run(DIGITS)[0], rtol=0.03, atol=0.03)


@pytest.mark.slow
def test_cnn_ignores_masked_images_in_training():
  variables = variables_of(DIGITS, images_of())
  mask = jnp.array([True, True, False, True, True, False])
  spoilt = jnp.where(mask[:, None, None, None], images_of(), jnp.nan)

  def gradient(images, mask):
    def loss(params):
      logits, _ = DIGITS.apply(
        {**variables, "params": params},
        images,
        train=True,
        mask=mask,
        mutable=["batch_stats"],
      )
      rows = jnp.square(logits - 1).mean(1) / 4
      return rows.sum() if mask is None else jnp.where(mask, rows, 0).sum()

    return jax.jit(jax.value_and_grad(loss))(variables["params"])

  actual = gradient(spoilt, mask)
  expected = gradient(images_of()[np.array([0, 1, 3, 4])], None)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    actual,
    expected,
  )


@pytest.mark.slow
def test_cnn_does_not_depend_on_the_number_of_devices():
  images = images_of((8, 8, 8, 1))
  mask = jnp.array([True] * 5 + [False] * 3)
  variables = variables_of(DIGITS, images)

  def train(axis_name):
    return lambda x, mask: DIGITS.clone(axis_name=axis_name).apply(
      variables, x, train=True, mask=mask, mutable=["batch_stats"]
    )

  expected, expected_state = jax.jit(train(None))(images, mask)
  logits, state = jax.jit(
    jax.vmap(train("batch"), axis_name="batch", out_axes=(0, None))
  )(images.reshape(4, 2, 8, 8, 1), mask.reshape(4, 2))
  np.testing.assert_allclose(logits.reshape(8, 10)[:5], expected[:5], atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    state,
    expected_state,
  )


@pytest.mark.slow
def test_cnn_gradient_is_exact_under_checked_shard_map():
  model = CNN(width=1, num_blocks=1, padding="SAME", axis_name="batch")
  images = images_of((16, 5, 5, 1))
  mask = jnp.arange(16) < 11
  variables = variables_of(model, images)

  def gradient(params, images, mask, axis_name):
    def loss(params):
      logits, _ = model.clone(axis_name=axis_name).apply(
        {**variables, "params": params},
        images,
        train=True,
        mask=mask,
        mutable=["batch_stats"],
      )
      total = jnp.where(mask, jnp.square(logits - 1).mean(1), 0).sum() / 11
      return total if axis_name is None else jax.lax.psum(total, axis_name)

    return jax.value_and_grad(loss)(params)

  rows, whole = PartitionSpec("batch"), PartitionSpec()
  sharded = jax.shard_map(
    functools.partial(gradient, axis_name="batch"),
    mesh=Mesh(np.array(jax.devices()), ("batch",)),
    in_specs=(whole, rows, rows),
    out_specs=whole,
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    jax.jit(sharded)(variables["params"], images, mask),
    jax.jit(functools.partial(gradient, axis_name=None))(
      variables["params"], images, mask
    ),
  )


@pytest.mark.parametrize(
  ("padding", "num_blocks", "expected"),
  [("VALID", 3, 22), ("VALID", 1, 4), ("SAME", 2, 4), ("SAME", 3, 8)],
)
def test_smallest_image_leaves_one_pixel(padding, num_blocks, expected):
  assert smallest_image(num_blocks, padding) == expected
  model = CNN(width=1, num_blocks=num_blocks, padding=padding)
  images = jnp.zeros((1, expected, expected, 1))
  _, state = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, mutable=True), images
  )
  assert state["intermediates"][model.taps[-2]][0].shape[1:3] == (1, 1)
  with pytest.raises(ValueError, match=f"at least {expected} x {expected}"):
    model.init(jax.random.key(0), images[:, 1:])


def test_cnn_rejects_bad_input():
  with pytest.raises(ValueError, match=r"padding: expected one of 'VALID'"):
    CNN(padding="same").init(jax.random.key(0), images_of())
  with pytest.raises(ValueError, match=r"images: expected a non-empty array"):
    DIGITS.init(jax.random.key(0), images_of((8, 8, 1)))
  with pytest.raises(TypeError, match=r"images: expected a floating-point"):
    DIGITS.init(jax.random.key(0), jnp.zeros((6, 8, 8, 1), jnp.uint8))

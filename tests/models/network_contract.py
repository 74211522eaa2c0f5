"""Promises of every network with BatchNorm: devices, masks, precision, batch of one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import capture
from tests.models.tiny import images_of


def spread_variables(model, images, **options):
  """Random variables that keep activations near one, whatever the depth."""
  rng = np.random.default_rng(1)
  init = functools.partial(model.init, **options)
  shapes = jax.eval_shape(init, jax.random.key(0), images)

  def draw(path, leaf):
    name = path[-1].key
    if name == "kernel":
      value = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    elif name in ("scale", "var"):
      value = rng.uniform(0.7, 1.3, leaf.shape)
    else:
      value = rng.normal(size=leaf.shape) * 0.2
    return jnp.asarray(value, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def check_devices_and_mask(model, size=16):
  """One device or two, and rows that are not valid, give the same training step.

  The gradient of the rows that are valid is finite whatever the others hold.
  """
  images = images_of((4, size, size, 3))
  mask = jnp.array([True, True, True, False])
  spoilt = jnp.where(mask[:, None, None, None], images, jnp.nan)
  variables = spread_variables(model, images)

  def train(params, images, mask, axis_name=None):
    return model.clone(axis_name=axis_name).apply(
      {**variables, "params": params},
      images,
      train=True,
      mask=mask,
      mutable=["batch_stats"],
    )

  def step(images, mask):
    def loss(params):
      logits, updated = train(params, images, mask, "batch")
      return jnp.square(logits[mask.argmax()]).sum(), (logits, updated)

    gradient, found = jax.grad(loss, has_aux=True)(variables["params"])
    return found, jax.lax.psum(gradient, "batch")

  def halves(x):
    return x.reshape(2, 2, *x.shape[1:])

  @jax.jit
  def both(spoilt, images):
    mapped = jax.vmap(step, axis_name="batch", out_axes=((0, None), None))
    alone = train(variables["params"], images[:3], None)
    return mapped(halves(spoilt), halves(mask)), alone

  ((logits, state), gradient), (expected, expected_state) = both(spoilt, images)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
  close(logits.reshape(4, -1)[:3], expected)
  jax.tree.map(close, state, expected_state)
  leaves = jax.tree.leaves(gradient)
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  assert any(leaf.any() for leaf in leaves)


def check_precision_and_batch_of_one(model, size=16):
  """bfloat16 computes about the same with float32 parameters, statistics and logits."""
  images = images_of((3, size, size, 3))
  variables = spread_variables(model, images)
  names = [*model.maps, *model.preactivations, *model.taps]
  half = model.clone(dtype=jnp.bfloat16)

  @jax.jit
  def both(variables, images):
    whole = capture.apply_with_taps(model, variables, images, taps=names)
    alone = model.apply(variables, images[:1])
    return whole, alone, capture.apply_with_taps(half, variables, images, taps=names)

  (logits, taps), alone, (rough, rough_taps) = both(variables, images)
  np.testing.assert_allclose(alone, logits[:1], rtol=1e-4, atol=1e-5)
  assert logits.dtype == rough.dtype == jnp.float32
  assert {taps[name].dtype for name in names} == {jnp.dtype("float32")}
  assert {rough_taps[name].dtype for name in names} == {jnp.dtype("bfloat16")}
  scale = np.abs(logits).max()
  np.testing.assert_allclose(rough / scale, logits / scale, atol=0.1)
  shapes = jax.eval_shape(half.init, jax.random.key(0), images)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}

"""A tiny network of the CIFAR kind, its variables, and counts without computing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import capture
from flowkd_jax import models

TINY = models.CifarResNet(num_blocks=1, widths=(2, 3), stem_width=2, num_classes=3)


def images_of(shape=(4, 8, 8, 1)):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def variables_of(model, images, **options):
  """Random variables; compiling the initialisation takes longer than the test."""
  rng = np.random.default_rng(1)
  init = functools.partial(model.init, **options)
  shapes = jax.eval_shape(init, jax.random.key(0), images)
  return jax.tree.map(
    lambda v: jnp.asarray(rng.uniform(0.1, 0.5, v.shape), v.dtype), shapes
  )


def parameters_of(model, size=32):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def sown_shapes(model, images, taps=None):
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return capture.tap_shapes(model, shapes, images, taps=taps)

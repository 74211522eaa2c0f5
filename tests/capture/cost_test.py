"""Listed costs of taps, against counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from flowkd_jax import capture
from flowkd_jax import models

IMAGES = jax.ShapeDtypeStruct((4, 8, 6, 4), jnp.float32)


class Layers(nn.Module):
  @nn.compact
  def __call__(self, images, train):
    x = nn.Conv(6, (3, 3), feature_group_count=2, strides=2, name="conv")(images)
    side = nn.Conv(2, (1, 1), name="side")(images)
    x = nn.relu(nn.Dense(5, name="dense")(x))
    x = x.mean((1, 2))
    x = nn.remat(nn.Dense)(5, name="again")(x)
    return nn.Dense(3, name="head")(x) + side.mean()


class Scanned(nn.Module):
  @nn.compact
  def __call__(self, images, train):
    x = images.mean((1, 2))
    loop = nn.scan(
      lambda module, carry, _: (module(carry), None),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=7,
    )
    return loop(nn.Dense(4, name="shared"), x, None)[0]


def row_flops(model):
  variables = jax.eval_shape(
    lambda key, x: capture.init(model, key, x), jax.random.key(0), IMAGES
  )
  taps = capture.list_taps(model, variables, IMAGES)
  return {tap.name: tap.row_flops for tap in taps}


def test_taps_cost_what_leads_to_them():
  conv = 2 * (4 * 3) * 6 * (9 * 2)  # places, channels, terms: half the channels a group
  dense = 2 * (4 * 3) * 5 * 6
  assert row_flops(Layers()) == {
    "conv": conv,
    "side": 2 * (8 * 6) * 2 * 4,
    "dense": conv + dense,
    "again": conv + dense + 2 * 5 * 5,
    "head": conv + dense + 2 * 5 * 5 + 2 * 5 * 3,
  }


def test_loops_count_as_often_as_they_run():
  assert set(row_flops(Scanned()).values()) == {7 * 2 * 4 * 4}


class Branches(nn.Module):
  @nn.compact
  def __call__(self, images, train):
    x = images.mean((1, 2))
    wide, narrow = (self.param(n, nn.initializers.ones, (4, n_)) for n, n_ in SIZES)
    y = lax.cond(
      x.sum() > 0, lambda x: (x @ wide) @ wide.T, lambda x: (x @ narrow) @ narrow.T, x
    )
    self.sow("intermediates", "chosen", y)
    return y


SIZES = (("wide", 10), ("narrow", 2))


def test_of_branches_the_most_expensive_counts():
  assert row_flops(Branches())["chosen"] == 2 * 2 * 4 * 10


@pytest.mark.parametrize("batch", [1, 32])
def test_costs_of_a_row_do_not_depend_on_the_batch(batch, monkeypatch):
  expected = row_flops(Layers())
  shape = jax.ShapeDtypeStruct((batch, *IMAGES.shape[1:]), jnp.float32)
  monkeypatch.setitem(globals(), "IMAGES", shape)
  assert row_flops(Layers()) == expected


def test_peak_bytes_counts_values_until_their_last_use():
  def function(x):
    one = jnp.sin(x)  # alive until `other` is there
    other = jnp.cos(one)
    return jnp.tanh(other).sum()

  x = jax.ShapeDtypeStruct((1000,), jnp.float32)
  assert capture.peak_bytes(function, x) == 8000
  assert capture.peak_bytes(lambda x: x + jnp.zeros_like(x), x) == 4000
  assert capture.peak_bytes(lambda x: x, x) == 0
  nested = jax.jit(lambda x: jnp.exp(function(x)))
  assert 8000 <= capture.peak_bytes(lambda x: nested(x) + 1, x) <= 8100


def test_peak_bytes_is_near_what_the_compiler_takes():
  model = models.by_name("digits_cnn:4", num_classes=3)
  images = jax.ShapeDtypeStruct((64, 32, 32, 1), jnp.float32)
  variables = jax.eval_shape(
    lambda key, x: capture.init(model, key, x), jax.random.key(0), images
  )

  def apply(variables, images):
    return capture.apply_with_taps(model, variables, images)

  sizes = jax.jit(apply).lower(variables, images).compile().memory_analysis()
  taken = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
  assert taken / 2 < capture.peak_bytes(apply, variables, images) < 2 * taken

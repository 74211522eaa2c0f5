"""Batch statistics of one device's rows are refused on several."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import models

IMAGES = jnp.zeros((2, 8, 8, 1))


class Block(nn.Module):
  """A normalisation inside another module."""

  options: tuple = ()

  @nn.compact
  def __call__(self, x, train, running=None):
    options = dict(self.options)
    if not options.pop("fixed", False):
      return nn.BatchNorm(**options)(x, use_running_average=not train)
    return nn.BatchNorm(use_running_average=True, **options)(x)


class Plain(nn.Module):
  options: tuple = ()

  @nn.compact
  def __call__(self, images, train=False):
    x = Block(self.options, name="block")(images.reshape(len(images), -1), train)
    return nn.Dense(3)(x)


class OfNNX(nnx.Module):
  def __init__(self, *, call=None, **options):
    rngs = nnx.Rngs(0)
    self.norms = nnx.List([nnx.BatchNorm(64, rngs=rngs, **options)])
    self.head = nnx.Linear(64, 3, rngs=rngs)
    self.call_options = call or {}

  def __call__(self, images):
    x = images.reshape(len(images), -1)
    return self.head(self.norms[0](x, **self.call_options))


def _train(model, variables, train=True):
  """Traces an application on two devices."""
  mutable = [name for name in variables if name != "params"]

  def apply(variables, images):
    with capture.statistics_over("batch"):
      return capture.apply_with_taps(
        model, variables, images, taps=(), train=train, mutable=mutable if train else ()
      )

  mapped = jax.vmap(apply, (None, 0), axis_name="batch")
  return jax.eval_shape(mapped, variables, jnp.zeros((2, *IMAGES.shape)))


def _linen(model):
  shapes = jax.eval_shape(lambda: capture.init(model, jax.random.key(0), IMAGES))
  return model, shapes


REFUSED = {
  "linen": (lambda: _linen(Plain()), "BatchNorm at block/BatchNorm_0 normalises by"),
  "linen, another axis": (
    lambda: _linen(Plain((("axis_name", "devices"),))),
    "expected axis_name='batch', got 'devices'",
  ),
  "cnn": (
    lambda: _linen(models.by_name("digits_cnn:2", num_classes=3)),
    "BatchNorm at norm_1 .* got None",
  ),
  "resnet": (
    lambda: _linen(models.by_name("digits_resnet:8", num_classes=3)),
    "BatchNorm at .* expected axis_name='batch', got None",
  ),
  "nnx": (lambda: capture.from_nnx(OfNNX()), "BatchNorm at norms/0 normalises by"),
}
ACCEPTED = {
  "linen": lambda: _linen(Plain((("axis_name", "batch"),))),
  "linen, running averages": lambda: _linen(Plain((("fixed", True),))),
  "cnn": lambda: _linen(
    models.by_name("digits_cnn:2", num_classes=3, axis_name="batch")
  ),
  "without statistics": lambda: _linen(models.LatentCNN(width=3, num_classes=3)),
  "nnx": lambda: capture.from_nnx(OfNNX(axis_name="batch")),
  "nnx, running averages": lambda: capture.from_nnx(
    OfNNX(call={"use_running_average": True})
  ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_statistics_of_one_device_are_refused(name):
  make, match = REFUSED[name]
  model, variables = make()
  with pytest.raises(ValueError, match=match):
    _train(model, variables)
  _train(model, variables, train=False)


@pytest.mark.parametrize("name", ACCEPTED)
def test_statistics_of_all_devices_are_accepted(name):
  _train(*ACCEPTED[name]())


def test_outside_of_a_step_for_several_devices_nothing_is_refused():
  model, variables = _linen(Plain())
  apply = functools.partial(
    capture.apply_with_taps, model, taps=(), train=True, mutable=["batch_stats"]
  )
  jax.eval_shape(apply, variables, IMAGES)

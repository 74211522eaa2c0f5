"""Networks by the names that flags take."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.jobs import networks


def test_ours_have_names_and_others_a_function():
  ours = networks.by_name("cnn1:16", num_classes=7)
  assert ours == models.CNN(width=16, num_classes=7)
  assert networks.by_name("flowkd_jax.models:CNN") == models.CNN()


@pytest.mark.parametrize(
  ("name", "match"),
  [
    ("vgg", "network: expected one of cnn1, .*MODULE:FUNCTION .* got 'vgg'"),
    ("flowkd_jax.models:VGG", "network: .*got 'flowkd_jax.models:VGG'"),
    ("cnn1:0", "expected cnn1:WIDTH with a positive integer"),
    ("builtins:dict", "builtins:dict made something else; model: .* got a dict"),
  ],
)
def test_networks_that_are_not_there_are_refused(name, match):
  with pytest.raises(ValueError, match=match):
    networks.by_name(name)


def test_networks_have_to_name_their_taps():
  networks.check_declares_taps(models.CNN())
  networks.check_declares_taps(capture.with_taps(nn.Dense(3), ["here"]))
  for model, found in (
    (nn.Dense(3), "none"),
    (capture.with_taps(nn.Dense(3), ["here", "**"]), r"here, \*\*"),
  ):
    with pytest.raises(ValueError, match=rf"taps: expected .* got {found}; list them"):
      networks.check_declares_taps(model)


def make_published():
  pytest.importorskip("equimo")
  from experiments.examples import equimo_vit

  return equimo_vit.make()


@pytest.mark.slow
def test_published_model_of_another_framework_has_the_taps_it_declares(monkeypatch):
  monkeypatch.setitem(sys.modules, "published", sys.modules[__name__])
  model = networks.by_name("published:make_published")
  networks.check_declares_taps(model)
  shapes = _shapes(model)
  blocks = [f"blocks/0/blocks/{block}" for block in range(4)]
  assert shapes == {**dict.fromkeys(blocks, (4, 17, 64)), "norm": (4, 17, 64)}


def _shapes(model):
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
  variables = capture.init(model, jax.random.key(0), images)
  capture.check_evaluation(model, variables, images)
  logits, _ = capture.apply_with_taps(model, variables, images, taps=())
  assert logits.shape == (4, 10)
  assert jnp.isfinite(logits).all()
  return capture.tap_shapes(model, variables, images)

"""A published transformer of another framework as a teacher."""

import importlib
import importlib.metadata
import types

import jax
import jax.numpy as jnp
import pytest

from experiments.examples import equimo_vit
from flowkd_jax import capture
from flowkd_jax.jobs import networks


@pytest.mark.slow
def test_published_model_of_another_framework_has_the_taps_it_declares():
  pytest.importorskip("equimo")
  model = networks.by_name("experiments.examples.equimo_vit:make")
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


@pytest.mark.parametrize(
  ("version", "module"),
  [("1.0.3", "equimo.models.vit"), ("2.1", "equimo.vision.models.vit")],
)
def test_transformer_is_where_its_version_has_it(version, module, monkeypatch):
  asked = []

  def vision_transformer(**settings):
    raise LookupError(settings)

  def import_module(name):
    asked.append(name)
    return types.SimpleNamespace(VisionTransformer=vision_transformer)

  monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
  monkeypatch.setattr(importlib, "import_module", import_module)
  with pytest.raises(LookupError, match="'img_size': 8, .*'depths': .4."):
    equimo_vit.make()
  assert asked == [module]

"""Models of no framework: what is asked of them."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import pooling

IMAGES = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)


@dataclasses.dataclass(frozen=True)
class Doubling:
  """Doubles the images twice; offers what it sows and what it does not."""

  name: str = "Doubling"
  taps: tuple[str, ...] | None = None
  pool: object = None
  logits: object = None

  def init(self, key, images):
    return {"params": {"factor": jnp.float32(2)}}

  def apply(self, variables, images, *, is_wanted, train, mask, rngs, mutable):
    once = images * variables["params"]["factor"]
    for path, sown in (("once", True), ("module", False)):
      if is_wanted(path, sown):
        once = capture.tag(once, path, sown=sown)
    return (once * variables["params"]["factor"], {}), {}


MODEL = capture.with_logits(Doubling(), 0)


def test_tagged_activations_are_found_by_name():
  variables = capture.init(MODEL, jax.random.key(0), IMAGES)
  logits, taps = capture.apply_with_taps(MODEL, variables, IMAGES)
  np.testing.assert_array_equal(logits, 4 * IMAGES)
  assert [*taps] == ["once"]
  _, taps = capture.apply_with_taps(MODEL, variables, IMAGES, taps=["module", "once"])
  assert [*taps] == ["module", "once"]
  np.testing.assert_array_equal(taps["module"], 2 * IMAGES)
  listed = capture.list_taps(MODEL, variables, IMAGES)
  assert [(tap.name, tap.sown) for tap in listed] == [("once", True), ("module", False)]


def test_fields_set_taps_and_pool():
  variables = capture.init(MODEL, jax.random.key(0), IMAGES)
  model = capture.pooled(capture.with_taps(MODEL, ["module"]), pooling.mean)
  shapes = capture.tap_shapes(model, variables, IMAGES)
  assert shapes == {"module": (2, 2)}


def test_gradient_passes_through_a_tag():
  gradient = jax.grad(lambda x: capture.tag(x, "name") ** 2)(3.0)
  assert gradient == 6


def test_what_lacks_a_member_is_refused():
  for lacking in ("name", "taps", "pool", "init"):
    members = dict.fromkeys({"name", "taps", "pool", "init", "apply"} - {lacking})
    with pytest.raises(TypeError, match=rf"SimpleNamespace lacks {lacking}"):
      capture.adapt(types.SimpleNamespace(**members))
  with pytest.raises(TypeError, match=r"model: expected a flax.linen.Module, or what"):
    capture.adapt(jnp.sum)


def test_model_without_a_field_cannot_be_given_one():
  model = types.SimpleNamespace(name="m", taps=None, pool=None, init=None, apply=None)
  for given in (
    lambda: capture.with_taps(model, ["a"]),
    lambda: capture.pooled(model, pooling.mean),
    lambda: capture.with_logits(model, 0),
  ):
    with pytest.raises(TypeError, match="expected a dataclass with the field"):
      given()

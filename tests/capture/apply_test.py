"""Models applied with their taps, and the proof of their evaluation mode."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 3, 1)), jnp.float32)


class ByBatch(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x - x.mean(axis=0, keepdims=True)


class Net(nn.Module):
  """Clean logits beside a tap that is normalised by the batch."""

  taps = ("clean", "by_batch")

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(4, name="layer")(images.reshape(len(images), -1))
    self.sow("intermediates", "clean", x)
    self.sow("intermediates", "by_batch", ByBatch(name="norm")(x))
    self.sow("intermediates", "turned", x.T)
    return nn.Dense(3)(x)


class Clean(Net):
  taps = ("clean",)


@pytest.fixture(scope="module")
def variables():
  return capture.init(Net(), jax.random.key(0), IMAGES)


@pytest.mark.slow
def test_apply_with_taps_gives_those_asked_for_in_their_order(variables):
  output, taps = capture.apply_with_taps(Net(), variables, IMAGES)
  assert [*taps] == ["clean", "by_batch"]
  again, none = capture.apply_with_taps(Net(), variables, IMAGES, taps=())
  assert none == {}
  np.testing.assert_array_equal(again, output)
  _, taps = capture.apply_with_taps(Net(), variables, IMAGES, taps=["norm", "clean"])
  assert [*taps] == ["norm", "clean"]
  mean = taps["clean"].mean(axis=0, keepdims=True)
  np.testing.assert_allclose(taps["norm"], taps["clean"] - mean, atol=1e-6)


@pytest.mark.slow
def test_with_taps_replaces_those_that_the_model_declares(variables):
  model = capture.with_taps(Net(), ["turned"])
  assert capture.tap_shapes(model, variables, IMAGES) == {"turned": (4, 8)}
  assert capture.tap_shapes(Net(), variables, IMAGES, taps=["layer"]) == {
    "layer": (8, 4)
  }


def test_what_is_no_model_is_refused(variables):
  with pytest.raises(TypeError, match="model: expected a flax.linen.Module.*got a int"):
    capture.apply_with_taps(3, variables, IMAGES)


@pytest.mark.slow
def test_tap_that_depends_on_the_batch_is_refused(variables):
  message = "model: Net is not in evaluation mode: its tap by_batch of an image depend"
  with pytest.raises(ValueError, match=message):
    capture.check_evaluation(Net(), variables, IMAGES)
  with pytest.raises(ValueError, match="its tap norm of an image depend"):
    capture.check_evaluation(Clean(), variables, IMAGES, taps=("layer", "norm"))


@pytest.mark.slow
def test_taps_that_are_not_asked_for_may_do_as_they_like(variables):
  capture.check_evaluation(Clean(), variables, IMAGES)
  capture.check_evaluation(Net(), variables, IMAGES, taps=())
  capture.check_evaluation(Net(), variables, IMAGES, taps=("layer",))


def test_tap_whose_first_axis_is_not_the_batch_is_refused(variables):
  message = r"first axis of its tap turned of Net is not the batch: 8 .* \(4, 8\)"
  with pytest.raises(ValueError, match=message):
    capture.check_evaluation(Net(), variables, IMAGES, taps=("turned",))


def test_wrong_names_of_taps_are_refused(variables):
  with pytest.raises(ValueError, match="taps: Net has no layr"):
    capture.check_evaluation(Net(), variables, IMAGES, taps=("layr",))

"""A method from a loss and an optimizer: its update by hand, its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax.methods import _method
from flowkd_jax.methods import _optimizers

BATCH = {"image": jnp.array([1.0, 2.0])}


def _loss(variables, batch, constants, *, step, key):
  """`(factor w - mean)^2`; counts the steps in a collection."""
  del step, key
  gap = constants * variables["params"]["w"] - batch["image"].mean()
  terms = {"square": gap**2, "sum": gap}
  loss, metrics = _method.weighted_loss(terms, {"square": 1.0, "sum": 0.0})
  return loss, ({"count": variables["count"] + 1}, metrics)


def _made(**options):
  return _method.gradient_method(
    **{
      "init_variables": lambda key, images: {
        "params": {"w": jnp.float32(3)},
        "count": jnp.float32(0),
      },
      "loss": _loss,
      "optimizer": optax.sgd(0.1),
      "export": lambda variables: {"model": variables},
      "constants": jnp.float32(2),
      "axis_name": None,
      **options,
    }
  )


@pytest.mark.slow
def test_update_is_a_gradient_step_by_hand():
  method = _made()
  state = method.init(jax.random.key(0), BATCH["image"])
  state, metrics = method.update(state, BATCH, method.constants)
  # Gap 2 * 3 - 1.5, gradient 2 * 2 * gap.
  np.testing.assert_allclose(metrics["loss"], 4.5**2)
  np.testing.assert_allclose(metrics["loss/sum"], 4.5)
  np.testing.assert_allclose(metrics["gradient_norm"], 18, rtol=1e-6)
  assert metrics["weight/sum"] == 0
  network = method.export(state)["model"]
  np.testing.assert_allclose(network["params"]["w"], 3 - 0.1 * 18, rtol=1e-6)
  assert (int(network["count"]), int(state.step)) == (1, 1)


@pytest.mark.eight_devices
def test_update_over_an_axis_is_that_of_the_global_batch():
  def loss(variables, batch, constants, *, step, key):
    image = jax.lax.pmean(batch["image"].mean(), "batch")
    batch = {"image": image[None]}
    return _loss(variables, batch, constants, step=step, key=key)

  method = _made(loss=loss, axis_name="batch")
  state = _made().init(jax.random.key(0), BATCH["image"])
  states, _ = jax.pmap(
    lambda image: method.update(state, {"image": image}, jnp.float32(2)),
    axis_name="batch",
    devices=jax.devices()[:2],
  )(BATCH["image"].reshape(2, 1))
  np.testing.assert_allclose(states.params["w"], [1.2, 1.2], rtol=1e-6)


@pytest.mark.slow
def test_observe_gives_gradients_of_the_terms_and_what_is_compared():
  method = _made(compare=lambda variables, *_: {"w": variables["params"]["w"]})
  state = method.init(jax.random.key(0), BATCH["image"])
  found = method.observe(state, BATCH, method.constants)
  assert found["w"] == 3
  np.testing.assert_allclose(found["gradient/square"], 18, rtol=1e-6)


def test_also_checked_makes_the_new_check_first():
  calls = []
  method = _made(check=lambda images, num_classes: calls.append("own"))
  checked = _method.also_checked(method, lambda *_: calls.append("new"))
  checked.check(BATCH["image"], 3)
  assert calls == ["new", "own"]
  assert method.check is not checked.check
  _method.also_checked(_made(), lambda *_: calls.append("alone")).check(None, 3)
  assert calls[-1] == "alone"


def test_of_wrapped_observes_the_inner_state():
  assert _method.of_wrapped(_made()._replace(observe=None)) is None
  observe = _method.of_wrapped(_made()._replace(observe=lambda state, *_: state))

  class Wrapper:
    trained = "inner"

  assert observe(Wrapper(), BATCH, ()) == "inner"


def test_weighted_loss_refuses_terms_without_a_weight():
  with pytest.raises(ValueError, match="weights"):
    _method.weighted_loss({"a": jnp.float32(1)}, {"b": 1.0})


def test_numbers_and_schedules_are_read_at_a_step():
  schedule = optax.linear_schedule(0, 1, 4)
  assert _method.at_step(schedule, jnp.int32(2)) == 0.5
  assert _method.at_step(3, jnp.int32(2)) == 3
  _method.check_not_negative("rate", schedule)
  _method.check_not_negative("rate", 0)
  for value in (-1, float("nan"), float("inf")):
    with pytest.raises(ValueError, match="rate: expected"):
      _method.check_not_negative("rate", value)


def test_optimizers_of_several_trees_are_those_of_each():
  optimizer = _optimizers.PerTree({"w": optax.sgd(1.0)})
  method = _made(optimizer=optimizer)
  state = method.init(jax.random.key(0), BATCH["image"])
  state, _ = method.update(state, BATCH, method.constants)
  np.testing.assert_allclose(state.params["w"], 3 - 18, rtol=1e-6)


def test_as_arrays_leaves_arrays_where_they_are():
  tree = {"host": np.ones(2, np.float32), "device": jnp.ones(2), "number": 3.0}
  arrays = _method.as_arrays(tree)
  assert arrays["host"] is tree["host"]
  assert arrays["device"] is tree["device"]
  assert isinstance(arrays["number"], jax.Array)

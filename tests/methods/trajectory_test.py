"""The path of the parameters, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import methods

pytestmark = pytest.mark.optimizer


def _walk(gradients, params=(0.0, 0.0)):
  """A method whose updates are the rows of `gradients`, in order."""
  rows = jnp.asarray(gradients, jnp.float32)

  def loss(variables, batch, constants, *, step, key):
    return -(variables["params"]["x"] * rows[step]).sum(), ({}, {})

  return methods.with_trajectory(
    methods.gradient_method(
      init_variables=lambda key, images: {"params": {"x": jnp.asarray(params)}},
      loss=loss,
      optimizer=optax.sgd(1.0),
      export=lambda variables: {"x": variables["params"]["x"]},
      axis_name=None,
    )
  )


def _metrics(method, steps):
  state = method.init(jax.random.key(0), None)
  for _ in range(steps):
    state, metrics = jax.jit(method.update)(state, {}, ())
  found = {
    name.removeprefix("trajectory/"): float(value)
    for name, value in metrics.items()
    if name.startswith("trajectory/")
  }
  return state, found


def test_metrics_are_those_of_the_steps_taken():
  steps = np.array([[3.0, 4.0], [0.0, -2.0], [1.0, 0.5]])
  method = _walk(steps, params=(5.0, -1.0))
  state, found = _metrics(method, 3)
  norms = np.linalg.norm(steps, axis=1)
  distance = np.linalg.norm(steps.sum(0))
  variation = 1 - np.linalg.norm(steps.mean(0)) ** 2 / (norms**2).mean()
  expected = {
    "distance": distance,
    "path": norms.sum(),
    "straightness": distance / norms.sum(),
    "variation": variation,
  }
  assert found == pytest.approx(expected, rel=1e-5)
  np.testing.assert_allclose(method.export(state)["x"], [9, 1.5])


@pytest.mark.parametrize(
  ("steps", "straightness", "variation"),
  [
    ([[1.0, 2.0]] * 4, 1, 0),  # all the same
    ([[1.0, 0], [3.0, 0]], 1, 1 - 4 / 5),  # one way, of different lengths
    ([[1.0, 2.0], [-1.0, -2.0]], 0, 1),  # there and back
    ([[0.0, 0.0]], 1, 0),  # nowhere
  ],
)
def test_straight_paths_and_paths_that_cancel(steps, straightness, variation):
  _, found = _metrics(_walk(steps), len(steps))
  assert found["straightness"] == pytest.approx(straightness, abs=1e-6)
  assert found["variation"] == pytest.approx(variation, abs=1e-6)


@pytest.mark.slow
def test_training_is_not_changed(network, batches):
  def run(method):
    state = method.init(jax.random.key(0), batches[0]["image"])
    for batch in batches:
      state, metrics = jax.jit(method.update)(state, batch, method.constants)
    return method.export(state)["network"].variables, metrics

  method = methods.supervised(network(), optax.sgd(0.1), axis_name=None)
  expected, plain = run(method)
  actual, metrics = run(methods.with_trajectory(method))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    actual,
    expected,
  )
  assert set(metrics) - set(plain) == {
    f"trajectory/{name}" for name in ("distance", "path", "straightness", "variation")
  }

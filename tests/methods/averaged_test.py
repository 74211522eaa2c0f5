"""Weight averaging around a method."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import methods

pytestmark = pytest.mark.optimizer


def _run(method, batches):
  state = method.init(jax.random.key(0), batches[0]["image"])
  update = jax.jit(method.update)
  states = [state]
  for batch in batches:
    state, _ = update(state, batch, method.constants)
    states.append(state)
  return states


@pytest.mark.slow
def test_exported_network_is_the_moving_average_of_the_trained_one(network, batches):
  plain = methods.supervised(network(), optax.sgd(0.1), axis_name=None)
  method = methods.averaged(plain, decay=0.25)
  states = _run(method, batches)
  trained = [plain.export(state)["network"].variables for state in _run(plain, batches)]
  average = trained[0]
  for step, variables in enumerate(trained[1:], start=1):
    kept = min(0.25, (1 + step) / (10 + step))
    average = jax.tree.map(
      lambda old, new, kept=kept: kept * np.asarray(old) + (1 - kept) * np.asarray(new),
      average,
      variables,
    )
  exported = method.export(states[-1])["network"].variables
  jax.tree.map(
    lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-5),
    dict(exported),
    dict(average),
  )
  assert set(exported) == {"params", "batch_stats"}


@pytest.mark.slow
def test_averaging_does_not_change_the_training(network, batches):
  plain = methods.supervised(network(), optax.sgd(0.1), axis_name=None)
  expected = _run(plain, batches)[-1]
  actual = _run(methods.averaged(plain, decay=0.9), batches)[-1].trained
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    actual.params,
    expected.params,
  )


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_impossible_decay_is_refused(network, decay):
  plain = methods.supervised(network(), optax.sgd(0.1), axis_name=None)
  with pytest.raises(ValueError, match=r"decay: expected a share in \[0, 1\), got"):
    methods.averaged(plain, decay=decay)


@pytest.mark.slow
def test_no_buffer_stands_in_the_state_twice(network, batches):
  method = methods.averaged(methods.supervised(network(), optax.sgd(0.1)), decay=0.9)
  state = method.init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)]
  own = jax.tree.leaves(state.trained.params)
  assert not set(pointers) & {leaf.unsafe_buffer_pointer() for leaf in own}

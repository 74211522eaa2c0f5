"""Outputs of networks by name."""

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import methods
from flowkd_jax.methods import _targets


def test_the_labelled_posterior_is_a_mean_where_there_is_a_label():
  outputs = methods.Outputs(jnp.array([[0.0, 1.0], [2.0, 0.0]]), {"tap": jnp.ones(2)})
  labels = jnp.array([0, -1], jnp.int32)
  posterior = jax.nn.softmax(outputs.logits)
  np.testing.assert_array_equal(_targets.output(outputs, labels, "tap"), jnp.ones(2))
  found = _targets.output(outputs, labels, methods.POSTERIOR)
  np.testing.assert_allclose(found, posterior)
  found = _targets.output(outputs, labels, methods.LABELLED_POSTERIOR)
  np.testing.assert_allclose(found[0], (posterior[0] + jnp.array([1.0, 0.0])) / 2)
  np.testing.assert_allclose(found[1], posterior[1])

"""Training on labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods


@pytest.mark.slow
@pytest.mark.optimizer
def test_supervised_leaves_out_rows_without_a_label(network, batches):
  model = network()
  method = methods.supervised(model, optax.sgd(0.1), axis_name=None)
  batch = batches[2]
  labels = jnp.where(jnp.arange(16) % 3 == 0, -1, batch["label"])
  state = method.init(jax.random.key(0), batch["image"])
  step = jax.jit(lambda batch: method.update(state, batch, ()))
  _, metrics = step({**batch, "label": labels})

  (logits, _), _ = capture.apply_with_taps(
    model,
    {"params": state.params, **state.collections},
    batch["image"],
    taps=(),
    train=True,
    mask=batch["mask"],
    mutable=list(state.collections),
  )
  left = np.asarray(batch["mask"] & (labels >= 0))
  expected = losses.cross_entropy(logits, batch["label"], mask=left)
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
  right = np.asarray(logits.argmax(1) == batch["label"])[left]
  np.testing.assert_allclose(metrics["accuracy"], right.mean(), rtol=1e-6)

  _, metrics = step({**batch, "label": jnp.full(16, -1)})
  assert metrics["loss"] == metrics["accuracy"] == metrics["gradient_norm"] == 0
  _, metrics = step({**batch, "label": labels.at[1].set(3)})
  assert np.isnan(metrics["accuracy"])

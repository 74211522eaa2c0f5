"""Evaluation of a trained network."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import report
from flowkd_jax import train
from tests.train.conftest import applied


@pytest.mark.slow
def test_evaluate_network_measures_the_last_tap(split, clean, network):
  others = dataclasses.replace(split, images=split.images[:, ::-1].copy())
  database = data.evaluation_batches(others, batch_size=16, mean=(128,), std=(64,))
  result = train.evaluate_network(network, database, clean)
  logits, _ = applied(network, split)
  right = np.mean(np.argmax(logits, axis=1) == split.labels)
  assert result["accuracy"] == pytest.approx(right)
  assert 0 < result["retrieval"]["cosine"]["mean_average_precision"] <= 1
  assert list(result["retrieval"]["euclidean"]["precision_at"]) == ["1", "10"]
  assert 0 < result["centroid"]["euclidean"] <= 1
  sizes = jax.tree.leaves(jax.tree.map(jnp.size, network.variables["params"]))
  assert result["parameters"] == sum(sizes)
  report.network_markdown([{"name": "network", **result}])
  assert (
    train.evaluate_network(network, database, clean, classifies=False)["accuracy"]
    is None
  )
  with pytest.raises(ValueError, match="other examples than the database, got the"):
    train.evaluate_network(network, clean, clean)


class Plain(nn.Module):
  """A model that knows neither taps nor mapped axes."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(4, name="hidden")(images.reshape(len(images), -1))
    self.sow("intermediates", "hidden_tap", x)
    return nn.Dense(3, name="classifier")(x)


@pytest.mark.slow
def test_models_from_elsewhere_are_measured_too(tmp_path, clean):
  model = Plain()
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  network = methods.Network(model, variables)
  measured = train.EpochMeasures(clean).of({"network": network})
  assert list(measured) == ["qmi/cosine/hidden_tap", "qmi/student_t/hidden_tap"]
  train.save_network(tmp_path / "net" / "network", network)
  kept = train.network_in_workdir(tmp_path, "net", model, image_shape=(8, 8, 1))
  jax.tree.map(np.testing.assert_array_equal, kept.variables, variables)

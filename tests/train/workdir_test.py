"""Training networks under a name in a work directory."""

import io

import jax
import numpy as np
import pytest
from rich import console as rich_console

from flowkd_jax import data
from flowkd_jax import models
from flowkd_jax import report
from flowkd_jax import train

pytestmark = pytest.mark.optimizer


def test_fit_in_workdir_records_resumes_and_keeps(
  tmp_path, method, batches, split, key
):
  clean = data.evaluation_batches(split, batch_size=16, mean=(128,), std=(64,))
  said = io.StringIO()
  options = train.FitOptions(
    on_epoch=train.EpochMeasures(clean),
    progress=train.Progress(rich_console.Console(file=said)),
  )

  def fit(epochs):
    arguments = tmp_path, "net", method, batches
    return train.fit_in_workdir(*arguments, epochs=epochs, key=key, options=options)

  first, second = fit(1), fit(2)
  assert second.seconds > first.seconds > 0
  lines = said.getvalue().splitlines()
  assert {"net: 3 steps", "net: 6 steps, 3 done before"} <= set(lines)
  whole = method.export(train.fit(method, batches, epochs=2, key=key).state)["network"]
  model = models.by_name("digits_cnn:2", num_classes=3, axis_name="batch")
  kept = train.network_in_workdir(tmp_path, "net", model, image_shape=(8, 8, 1))
  assert kept.model.axis_name is None
  for network in (second.networks["network"], kept):
    jax.tree.map(np.testing.assert_array_equal, network.variables, whole.variables)
  entries = report.read_metrics(tmp_path)
  assert [(entry["stage"], entry["epoch"]) for entry in entries] == [
    ("net", -1),
    ("net", 0),
    ("net", 1),
  ]
  assert entries[-1]["qmi/cosine/dense"] > 0
  with pytest.raises(FileNotFoundError, match="saved network in .*other.network"):
    train.network_in_workdir(tmp_path, "other", model, image_shape=(8, 8, 1))

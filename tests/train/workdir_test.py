"""Training networks under a name in a work directory."""

import dataclasses
import io
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich import console as rich_console

from flowkd_jax import data
from flowkd_jax import models
from flowkd_jax import report
from flowkd_jax import train

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
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
  headings = [line for line in lines if " steps" in line]
  assert headings == [
    "net: 1 epoch of 3 steps",
    "net: 2 epochs of 3 steps, resumed in epoch 2, after step 3",
  ]
  epochs = [line for line in lines if line not in headings]
  assert len(epochs) == 2
  number = r"[0-9.,e-]+"
  for line, epoch in zip(epochs, ("1 of 1", "2 of 2"), strict=True):
    assert re.fullmatch(
      rf"net: epoch {epoch}, loss {number}, information flow of dense {number}, "
      rf"{number} images/s",
      line,
    )
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


def _fit_toy(workdir, toy, batches, *, epochs=1, key=None):
  key = jax.random.key(0) if key is None else key
  return train.fit_in_workdir(workdir, "net", toy(), batches, epochs=epochs, key=key)


@pytest.mark.slow
def test_fit_in_workdir_refuses_another_run_under_the_name(
  tmp_path, toy, batches, split
):
  _fit_toy(tmp_path, toy, batches, epochs=2)
  labels = split.labels.copy()
  labels[7] = (labels[7] + 1) % 3
  relabelled = dataclasses.replace(split, labels=labels)
  others = {
    "hash of all examples": dataclasses.replace(batches, source=relabelled),
    "augmentation": dataclasses.replace(batches, augmentation=data.Augmentation()),
    "seed": dataclasses.replace(batches, seed=1),
    "mean": dataclasses.replace(batches, mean=(127.0,)),
  }
  for name, other in others.items():
    with pytest.raises(ValueError, match=f"other data, .*{name}: .* before, .* now"):
      _fit_toy(tmp_path, toy, other, epochs=2)
  with pytest.raises(ValueError, match=r"key: \w+ before, \w+ now"):
    _fit_toy(tmp_path, toy, batches, epochs=2, key=jax.random.key(1))
  with pytest.raises(ValueError, match="epochs: expected 2 or more, .* got 1"):
    _fit_toy(tmp_path, toy, batches, epochs=1)
  assert len(report.read_metrics(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.eight_devices
def test_fit_in_workdir_goes_on_after_a_refusal(tmp_path, toy, batches):
  with pytest.raises(ValueError, match="8 devices cannot share 12 rows"):
    _fit_toy(tmp_path, toy, dataclasses.replace(batches, batch_size=12))
  _fit_toy(tmp_path, toy, batches)


def test_damaged_record_is_named(tmp_path, toy, batches):
  _fit_toy(tmp_path, toy, batches)
  (tmp_path / "net" / "run.json").write_text("{")
  with pytest.raises(ValueError, match=r"net/run.json is damaged: .*; restore a copy"):
    _fit_toy(tmp_path, toy, batches)


def test_fit_in_workdir_refuses_patterns_before_any_work(tmp_path, toy, batches):
  with pytest.raises(ValueError, match=r"workdir, name: expected a path without \["):
    _fit_toy(tmp_path / "[bold]y", toy, batches)
  assert not [*tmp_path.iterdir()]


_HOLD = """
import sys, time
from flowkd_jax import train
with train.lock_workdir(sys.argv[1]):
  print("held", flush=True)
  time.sleep(100)
"""


@pytest.mark.slow
def test_work_directory_of_a_living_run_is_refused(tmp_path, toy, batches):
  holder = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(tmp_path)],
    env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(
      ValueError, match=rf"workdir: .* in use by process {holder.pid} on host .*wait"
    ):
      _fit_toy(tmp_path, toy, batches)
  finally:
    holder.kill()
    holder.communicate()
  _fit_toy(tmp_path, toy, batches)

"""The benchmark of a training step, at sizes that say nothing."""

import json

import numpy as np
import optax
import pytest

from experiments.benchmarks import training_step
from flowkd_jax import methods
from flowkd_jax import models


def test_benchmark_measures_prints_and_writes(capsys, monkeypatch, tmp_path):
  ours = ("step", training_step.MANY, "labels step", "teacher forward", "loss")
  modes = ("eager", "compiled")
  theirs = [f"{what}, {mode}" for what in ("step", "loss") for mode in modes]
  sums = {name: lambda: sum(range(100)) for name in (*ours, *theirs)}
  monkeypatch.setattr(training_step, "jax_programs", lambda *a, **k: sums)
  monkeypatch.setattr(training_step, "torch_programs", lambda *a: {})
  measurement = training_step.measurement
  monkeypatch.setattr(measurement, "check_torch", lambda: None)
  monkeypatch.setattr(measurement.importlib.metadata, "version", lambda name: "1.0")
  path = tmp_path / "step.json"
  training_step.run(
    training_step.configure(
      rounds=2, steps=2, batch_size=4, steps_per_call=4, json=str(path)
    )
  )
  output = capsys.readouterr().out
  for mode in ("flowkd_jax", *modes):
    assert f"distillation step, four taps: {mode}" in output
  assert "Overhead of the flow loss" in output
  assert "device cpu" in output
  found = json.loads(path.read_text())
  assert found["seconds"].keys() == sums.keys()
  assert len(found["seconds"]["step"]["rounds"]) == 2
  with pytest.raises(ValueError, match="--rounds: expected 1 or more, got 0"):
    training_step.configure(rounds=0)


@pytest.mark.slow
@pytest.mark.optimizer
def test_benchmarked_programs_run():
  rng = np.random.default_rng(0)
  images = rng.standard_normal((4, 32, 32, 3)).astype(np.float32)
  taps = {
    role: [rng.random((4, width)).astype(np.float32) for width in widths]
    for role, widths in training_step.TAP_WIDTHS.items()
  }
  programs = training_step.jax_programs(images, np.zeros(4, np.int32), taps)
  assert [*programs] == ["step", "labels step", "teacher forward", "loss"]
  value, gradients = programs["loss"]()
  assert value > 0
  assert [np.abs(each).max() > 0 for each in gradients] == [True] * len(gradients)
  logits, activations = programs["teacher forward"]()
  assert logits.shape == (4, 10)
  assert len(activations) == len(training_step.TAP_WIDTHS["teacher"])
  for name in ("step", "labels step"):
    programs[name]()


@pytest.mark.slow
@pytest.mark.optimizer
def test_one_call_may_take_many_steps():
  model = models.by_name("digits_cnn:2", num_classes=3, axis_name="batch")
  examples = {
    "image": np.zeros((4, 8, 8, 1), np.float32),
    "label": np.zeros(4, np.int32),
  }
  method = methods.supervised(model, optax.sgd(0.1))
  state, metrics = training_step._stepper(method, examples, 3)()
  assert int(state.step) == metrics["loss"].size == 3


@pytest.mark.slow
@pytest.mark.optimizer
def test_benchmark_runs_beside_pytorch(capsys, monkeypatch):
  pytest.importorskip("torch")
  ours = ("step", "labels step", "teacher forward", "loss")
  sums = {name: lambda: sum(range(100)) for name in ours}
  monkeypatch.setattr(training_step, "jax_programs", lambda *a, **k: sums)
  training_step.run(
    training_step.configure(rounds=1, steps=1, batch_size=4, torch_modes=("eager",))
  )
  output = capsys.readouterr().out
  assert "distillation step, four taps: eager" in output
  assert "compiled" not in output

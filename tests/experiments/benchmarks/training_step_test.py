"""The benchmark of a training step, at sizes that say nothing."""

import pytest

from experiments.benchmarks import training_step


def test_benchmark_measures_and_prints(capsys, monkeypatch):
  fast = {
    name: lambda: sum(range(100))
    for name in (
      "step",
      "loss",
      "labels step",
      "teacher forward",
      "step, PyTorch",
      "loss, PyTorch",
    )
  }
  monkeypatch.setenv("COLUMNS", "120")
  monkeypatch.setattr(training_step, "jax_programs", lambda *a: fast)
  monkeypatch.setattr(training_step, "torch_programs", lambda *a: {})
  monkeypatch.setattr(training_step.importlib.metadata, "version", lambda name: "1.0")
  training_step.run(training_step.configure(rounds=2, steps=2, batch_size=4))
  output = capsys.readouterr().out
  assert "distillation step, four taps" in output
  assert "Overhead of the flow loss" in output
  with pytest.raises(ValueError, match="--rounds: expected 1 or more, got 0"):
    training_step.configure(rounds=0)


@pytest.mark.slow
@pytest.mark.optimizer
def test_benchmarked_programs_run():
  import numpy as np

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

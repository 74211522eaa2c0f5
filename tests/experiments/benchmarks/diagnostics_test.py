"""The benchmark of diagnostics, small."""

import pytest

from experiments.benchmarks import diagnostics

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_benchmark_measures_steps_and_looks(capsys):
  config = diagnostics.configure(
    teacher_network="digits_cnn:4",
    student_network="digits_cnn:2",
    image_size=8,
    batch_size=16,
    steps=1,
    probe=16,
    rounds=1,
  )
  diagnostics.run(config)
  heading, clock, cores = capsys.readouterr().out.splitlines()
  assert heading.startswith("device cpu, ")
  assert clock.startswith("by the clock: a step")
  assert cores.startswith("of processor time: a step")
  assert "% of an epoch of 391 steps" in cores


@pytest.mark.slow
def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--probe: expected 1 or more, got 0"):
    diagnostics.configure(probe=0)
  with pytest.raises(ValueError, match="--student_network: network: expected one of"):
    diagnostics.configure(student_network="vgg")

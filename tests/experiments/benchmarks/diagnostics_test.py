"""The benchmark of diagnostics, small."""

import pytest

from experiments.benchmarks import diagnostics

pytestmark = pytest.mark.optimizer


def test_benchmark_measures_steps_and_looks(capsys):
  config = diagnostics.configure(batch_size=16, steps=1, probe=16, rounds=1)
  diagnostics.run(config)
  clock, cores = capsys.readouterr().out.splitlines()
  assert clock.startswith("by the clock: a step")
  assert cores.startswith("of processor time: a step")
  assert "% of an epoch of 391 steps" in cores


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--probe: expected 1 or more, got 0"):
    diagnostics.configure(probe=0)

"""The script that kills trainings, on a small scale."""

import pytest

from experiments.benchmarks import kills


@pytest.mark.slow
def test_killed_training_ends_like_a_whole_one(capsys):
  kills.run(kills.configure(kills=1, epochs=8, checkpoint_seconds=0))
  assert "1 processes were stopped in 1 runs; 0 runs ended" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"kills": 0}, "--kills: expected 1 or more"),
    ({"epochs": 0}, "--epochs: expected 1 or more"),
    ({"signals": ("SIGSEGV",)}, "--signals: expected one of SIGKILL, "),
    ({"checkpoint_seconds": float("nan")}, "--checkpoint_seconds: expect"),
  ],
)
def test_settings_that_cannot_be_right_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    kills.configure(**options)

"""The scripts that damage files and kill trainings, on a small scale."""

import pytest

from experiments.benchmarks import bit_flips
from experiments.benchmarks import kills


@pytest.mark.parametrize("write", bit_flips.KINDS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_changed_bit_is_accepted(write, tmp_path):
  stored = write(tmp_path / "stored")
  outcome = bit_flips.examine(stored, flips=2, seed=0)
  assert outcome.wrong == 0
  assert outcome.noticed + outcome.unused >= 2


def test_accepted_changes_are_counted(tmp_path):
  path = tmp_path / "file"
  path.write_text("text")
  stored = bit_flips.Stored("file", path, lambda: (path.read_bytes(), False), b"")
  stored = stored._replace(expected=path.read_bytes())
  assert bit_flips.examine(stored, flips=3, seed=0).wrong == 3
  assert path.read_text() == "text"


@pytest.mark.slow
def test_killed_training_ends_like_a_whole_one(capsys):
  kills.run(kills.configure(kills=1, epochs=8, checkpoint_seconds=0))
  assert "1 processes were stopped in 1 runs; 0 runs ended" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("script", "options", "match"),
  [
    (bit_flips, {"flips": 0}, "--flips: expected 1 or more"),
    (kills, {"kills": 0}, "--kills: expected 1 or more"),
    (kills, {"epochs": 0}, "--epochs: expected 1 or more"),
    (kills, {"signals": ("SIGSEGV",)}, "--signals: expected one of SIGKILL, "),
    (kills, {"checkpoint_seconds": float("nan")}, "--checkpoint_seconds: expect"),
  ],
)
def test_settings_that_cannot_be_right_are_refused(script, options, match):
  with pytest.raises(ValueError, match=match):
    script.configure(**options)

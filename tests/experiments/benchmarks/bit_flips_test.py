"""The script that changes bits of files, on a small scale."""

import pytest

from experiments.benchmarks import bit_flips


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


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"flips": 0}, "--flips: expected 1 or more"),
  ],
)
def test_settings_that_cannot_be_right_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    bit_flips.configure(**options)

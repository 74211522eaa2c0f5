"""The lines that show a study."""

import io

import pytest
from rich import console as rich_console

from experiments.studies import progress_lines


@pytest.mark.parametrize("terminal", [True, False])
def test_every_run_has_a_line(terminal):
  file = io.StringIO()
  console = rich_console.Console(file=file, force_terminal=terminal, width=60)
  with progress_lines.ProgressLines(
    "study a", 9, 2, console=console, quiet_seconds=0
  ) as shown:
    shown.update(3, {"first/1": "student [b] " + 9 * "long ", "second/2": "starting"})
    shown.say("failed: " + 90 * "x")
  output = file.getvalue()
  assert "study a: 3 of 9 runs, 0:00:00" in output
  assert "  first/1: student [b] long" in output
  assert "  second/2: starting" in output
  assert "failed: " + 90 * "x" in output  # neither cut nor wrapped


@pytest.mark.parametrize(("name", "value"), [("FORCE_COLOR", "1"), ("TERM", "dumb")])
def test_files_and_dumb_terminals_get_no_control_codes(name, value, monkeypatch):
  monkeypatch.setenv(name, value)
  file = io.StringIO()
  terminal = True if name == "TERM" else None
  console = rich_console.Console(file=file, force_terminal=terminal)
  if name == "FORCE_COLOR":
    monkeypatch.setattr("sys.stdout", file)
    console = None
  with progress_lines.ProgressLines("study a", 9, console=console):
    pass
  assert file.getvalue() == "study a: 0 of 9 runs, 0:00:00\n"


def test_log_files_get_a_line_now_and_then(capsys):
  with progress_lines.ProgressLines("study a", 9) as shown:
    for done in range(5):
      shown.update(done, {"first/1": "student"})
  assert capsys.readouterr().out == "study a: 0 of 9 runs, 0:00:00\n"

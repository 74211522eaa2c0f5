"""Progress on terminals, in files and notebooks."""

import io

import pytest
from rich import console as rich_console
from rich import table as rich_table

from flowkd_jax import train


def _progress(terminal):
  out = io.StringIO()
  console = rich_console.Console(file=out, force_terminal=terminal, width=100)
  return out, train.Progress(console, quiet_seconds=0)


def test_progress_prints_plain_lines_to_a_file():
  out, progress = _progress(terminal=False)
  progress.start("student", 100, done=10)
  progress.update(50, {"loss": 0.25})
  progress.stop()
  assert "student: 100 steps, 10 done before" in out.getvalue()
  assert "student: 50 of 100  loss 0.25" in out.getvalue()


def test_counter_says_nothing_in_a_file_unless_it_takes_long():
  out, progress = _progress(terminal=False)
  progress.quiet_seconds = 100
  count = progress.counter("decoding")
  count(1, 2)
  assert out.getvalue() == ""
  progress.quiet_seconds = 0
  count(2, 2)
  assert out.getvalue() == "decoding: 2 of 2\n"


@pytest.mark.parametrize(
  ("name", "value"),
  [("FORCE_COLOR", "1"), ("TERM", "dumb"), ("NO_COLOR", "1"), ("COLUMNS", "40")],
)
def test_progress_writes_no_control_codes_to_a_file(name, value, monkeypatch, capsys):
  monkeypatch.setenv(name, value)
  progress = train.Progress()
  progress.start("student", 2)
  progress.update(1)
  progress.say("kept in " + 90 * "x")
  progress.stop()
  assert capsys.readouterr().out == f"student: 2 steps\nkept in {90 * 'x'}\n"


def test_progress_on_a_dumb_terminal_prints_lines(monkeypatch):
  monkeypatch.setenv("TERM", "dumb")
  out, progress = _progress(terminal=True)
  progress.start("student", 2)
  progress.stop()
  assert out.getvalue() == "student: 2 steps\n"


def test_table_is_as_wide_as_it_needs_in_a_file_only():
  table = rich_table.Table(box=None)
  table.add_column("network")
  table.add_column("accuracy")
  table.add_row(80 * "n", 40 * "9")
  out, progress = _progress(terminal=False)
  progress.print_table(table)
  assert f"{80 * 'n'} {40 * '9'}" in " ".join(out.getvalue().split())
  out, progress = _progress(terminal=True)
  progress.print_table(table)
  assert 80 * "n" not in out.getvalue()


def test_progress_shows_a_bar_on_a_terminal():
  out, progress = _progress(terminal=True)
  count = progress.counter("retrieval")
  count(1, 2)
  count(2, 2)
  assert "retrieval" in out.getvalue()
  assert "2/2" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("text", ["runs/[bold]y", "a[/b]", ":smile:", "x" * 300])
def test_progress_prints_text_as_it_is(terminal, text):
  out, progress = _progress(terminal)
  progress.say(text)
  assert out.getvalue() == f"{text}\n"
  out, progress = _progress(terminal)
  progress.start(text[:40], 2)
  progress.update(1)
  progress.stop()
  assert text[:40] in out.getvalue()


def test_progress_prints_plain_lines_to_a_notebook_without_widgets(monkeypatch):
  shown = []
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  monkeypatch.setattr("rich.jupyter.display", lambda _, text: shown.append(text))
  progress = train.Progress(rich_console.Console(force_jupyter=True, highlight=False))
  progress.start("student", 100)
  progress.stop()
  assert shown == ["student: 100 steps\n"]

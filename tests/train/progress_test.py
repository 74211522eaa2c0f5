"""Progress on terminals, in files and notebooks."""

import io

import pytest
from rich import console as rich_console

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

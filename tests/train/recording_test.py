"""Metrics files, progress bars, signals."""

import io
import json
import os
import signal

import pytest
from rich import console as rich_console

from flowkd_jax import train
from flowkd_jax.train import _interruption


def test_metrics_are_appended_a_line_per_epoch(tmp_path):
  for epoch in (0, 1):
    with train.MetricsWriter(tmp_path, "teacher") as metrics:
      metrics.write(epoch, 10 * epoch, {"loss": 0.5, "bad": float("nan")})
  records = [
    json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  assert records[1] == {
    "stage": "teacher",
    "epoch": 1,
    "step": 10,
    "loss": 0.5,
    "bad": None,
  }
  assert list((tmp_path / "tensorboard" / "teacher").glob("events*"))


def test_line_that_a_kill_cut_short_does_not_swallow_the_next(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"stage": "a", "ep')
  with train.MetricsWriter(tmp_path, "b") as metrics:
    metrics.write(0, 1, {"loss": 1.0})
  last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
  assert json.loads(last)["stage"] == "b"


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_only_sets_a_flag(number):
  before = signal.getsignal(number)
  with train.stop_on_signals() as asked:
    assert asked() is None
    os.kill(os.getpid(), number)
    assert asked() == number.name
    assert signal.getsignal(number) == before  # A second one acts at once.
  assert signal.getsignal(number) == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_are_numbers_that_processes_can_compare(name):
  assert _interruption.signal_name(_interruption.signal_number(name)) == name
  assert _interruption.signal_number(None) == 0
  assert _interruption.signal_number("SIGTERM") > _interruption.signal_number("SIGINT")
  assert _interruption.signal_number("time is up") > 0

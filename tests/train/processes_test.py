"""One process waits for none; for two see tests/experiments/hosts_test.py."""

from rich import console as rich_console

from flowkd_jax import train
from flowkd_jax.train import _processes


def test_one_process_is_the_first_and_waits_for_none():
  assert train.is_first_process()
  train.wait_for_processes("nobody")
  assert _processes.any_process(True, False) == [True, False]


def test_another_process_neither_writes_nor_speaks(tmp_path, monkeypatch):
  monkeypatch.setattr(_processes, "is_first_process", lambda: False)
  with train.MetricsWriter(tmp_path / "run", "student") as metrics:
    metrics.write(0, 1, {"loss": 1.0})
  assert not [*tmp_path.iterdir()]
  console = rich_console.Console(record=True)
  progress = train.Progress(console)
  progress.say("hello")
  assert console.export_text() == ""

"""One process waits for none; for two see tests/cli/hosts_test.py."""

import importlib.metadata

import pytest
from rich import console as rich_console

from flowkd_jax import train
from flowkd_jax.train import _processes


def test_one_process_is_the_first_and_waits_for_none():
  assert train.is_first_process()
  train.wait_for_processes("nobody")
  assert _processes.any_process(True, False) == [True, False]
  assert _processes.largest_of_processes(3, 0) == [3, 0]
  assert _processes.of_all_processes({"a": [1]}) == [{"a": [1]}]
  train.check_same_settings({"seed": 0})


def test_a_copy_that_was_not_installed_has_a_version(monkeypatch):
  version = importlib.metadata.version

  def of_others(name):
    if name == "flowkd_jax":
      raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

  monkeypatch.setattr(importlib.metadata, "version", of_others)
  train.check_same_settings({"seed": 0})


def test_another_process_neither_writes_nor_speaks(tmp_path, monkeypatch):
  monkeypatch.setattr(_processes, "is_first_process", lambda: False)
  with train.MetricsWriter(tmp_path / "run", "student") as metrics:
    metrics.write(0, 1, {"loss": 1.0})
  assert not [*tmp_path.iterdir()]
  console = rich_console.Console(record=True)
  progress = train.Progress(console)
  progress.say("hello")
  assert console.export_text() == ""


def test_processes_with_other_settings_or_versions_are_refused(monkeypatch):
  def gathered(mine):
    other = {**mine, "--seed": 1, "version of jax": "9"}
    return [mine, mine, other]

  monkeypatch.setattr(_processes, "of_all_processes", gathered)
  with pytest.raises(
    ValueError, match="--seed: 0 in process 0, 1 in process 2; version of jax: '"
  ):
    train.check_same_settings({"seed": 0, "flip": True}, prefix="--")

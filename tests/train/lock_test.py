"""The lock of a work directory."""

import json

import filelock
import pytest

from flowkd_jax import train
from flowkd_jax.train import _lock


def test_lock_can_be_taken_again_in_a_process_and_ends_with_the_last(tmp_path):
  with train.lock_workdir(tmp_path / "run"):
    with train.lock_workdir(tmp_path / "run"):
      pass
    assert "process" in (tmp_path / "run" / _lock.LOCK_FILE).read_text()
  with train.lock_workdir(tmp_path / "new", only_existing=True):
    assert not (tmp_path / "new").exists()


def test_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
  import errno
  import fcntl

  def flock(*args):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  with train.lock_workdir(tmp_path):
    pass
  assert "has no file locks" in caplog.text


def test_lock_of_another_process_names_its_holder(tmp_path):
  held = filelock.FileLock(tmp_path / _lock.LOCK_FILE, is_singleton=False)
  with held:
    with (
      pytest.raises(ValueError, match="networks_from: .* in use by another process"),
      _lock.lock_workdir(tmp_path, name="networks_from"),
    ):
      pass
    holder = {"host": "far", "process": 12, "started": "noon", "command": "flowkd"}
    (tmp_path / _lock.LOCK_FILE).write_text(json.dumps(holder))
    with (
      pytest.raises(ValueError, match=r"process 12 on host far, .* noon \(flowkd\)"),
      _lock.lock_workdir(tmp_path),
    ):
      pass
  with _lock.lock_workdir(tmp_path):
    pass


def test_lock_keeps_others_out_until_it_ends(tmp_path):
  other = filelock.FileLock(tmp_path / _lock.LOCK_FILE, is_singleton=False)
  with _lock.lock_workdir(tmp_path), pytest.raises(filelock.Timeout):
    other.acquire(blocking=False)
  other.acquire(blocking=False)
  other.release()

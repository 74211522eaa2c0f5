"""Launches that share a machine."""

import signal
import subprocess
import sys
import time

import pytest

from experiments.studies import launches


def _job(folder, code):
  return launches.Job(folder / "first" / "1", [sys.executable, "-c", code])


def test_memory_of_the_device_is_shared_out(monkeypatch):
  for name in launches._FRACTIONS:
    monkeypatch.delenv(name, raising=False)
  assert launches.memory_share(1) == {}
  assert launches.memory_share(4) == {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2250"}
  # JAX refuses both names together.
  monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
  assert launches.memory_share(2) == {"XLA_CLIENT_MEM_FRACTION": "0.2500"}


@pytest.mark.parametrize("fraction", ["half", "0", "1.5", "nan"])
def test_impossible_share_of_memory_is_refused(fraction, monkeypatch):
  monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
  monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", fraction)
  with pytest.raises(ValueError, match="XLA_PYTHON_CLIENT_MEM_FRACTION: expected a sh"):
    launches.memory_share(2)


def test_launch_gets_its_share_and_says_its_last_line(tmp_path, monkeypatch):
  monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
  monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
  code = "import os; print('share', os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])"
  job = _job(tmp_path, f"{code}; print()")
  job.log.parent.mkdir(parents=True)
  job.log.write_text("of an earlier start\n")
  started = launches.start(job, 1, 2)
  assert started.process.wait() == 0
  assert started.last_line == "share 0.3000"
  assert started.has_failed  # without results
  assert job.name == "first/1"
  empty = started._replace(before=job.log.stat().st_size)
  assert empty.last_line == "starting"


def test_a_launch_with_results_has_not_failed_if_a_stage_diverged(tmp_path):
  (tmp_path / "first" / "1").mkdir(parents=True)
  started = launches.start(_job(tmp_path, "import sys; sys.exit(1)"), 0, 1)
  assert started.process.wait() == 1
  results = started.job.folder / "results.json"
  results.write_text('{"networks": []}')
  assert started.job.diverged == []
  assert started.has_failed
  results.write_text('{"networks": [], "diverged": [{"name": "kd"}]}')
  assert started.job.diverged == ["kd"]
  assert not started.has_failed


def test_stop_tells_who_failed_while_it_was_stopped(tmp_path):
  fail = "import signal, sys, time; print(1, flush=True); "
  fail += (
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print(2, flush=True); "
  )
  bad = launches.start(_job(tmp_path / "bad", f"{fail} time.sleep(60)"), 0, 1)
  good = launches.start(_job(tmp_path / "good", "import time; time.sleep(60)"), 0, 1)
  while bad.last_line != "2":
    assert bad.process.poll() is None
  assert launches.stop([bad, good]) == [bad.job]


def test_a_launch_that_does_not_stop_in_time_is_killed_and_has_not_failed(tmp_path):
  code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); "
  code += "print(1, flush=True)\nwhile True: time.sleep(1)"
  started = launches.start(_job(tmp_path, code), 0, 1)
  while started.last_line != "1":
    assert started.process.poll() is None
  assert launches.stop([started], seconds=0.1) == []
  assert started.process.returncode == -9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot do it")
def test_a_launch_ends_when_its_driver_is_killed(tmp_path):
  wait = f"""
import pathlib, signal, sys, time
folder = pathlib.Path({str(tmp_path)!r})
signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(0)))
(folder / "began").touch()
time.sleep(60)
"""
  driver = f"""
import os, pathlib, signal, sys, time
from experiments.studies import launches
folder = pathlib.Path({str(tmp_path)!r})
launches.start(launches.Job(folder / "run", [sys.executable, "-c", {wait!r}]), 0, 1)
while not (folder / "began").exists():
  time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""
  process = subprocess.run([sys.executable, "-c", driver], timeout=60)
  assert process.returncode == -signal.SIGKILL
  end = time.monotonic() + 20
  while not (tmp_path / "saved").exists():
    assert time.monotonic() < end, "the launch goes on without its driver"
    time.sleep(0.05)

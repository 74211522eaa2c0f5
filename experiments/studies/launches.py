"""Launches of a study: processes that share the cores and the accelerator."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flowkd_jax.jobs import stages

# Share of the accelerator's memory that all runs get together. The rest is for memory
# that JAX does not count, such as the CUDA context of each process.
MEMORY = 0.9
# Names of the variable in JAX, which refuses both together. The second is deprecated.
_FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
# Asks the kernel to send SIGTERM when the driver ends for any reason, so that no run
# keeps the accelerator without a driver. Then replaces itself by the launch.
_TIED = (
  "import ctypes, os, signal, sys\n"
  "ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))\n"  # PR_SET_PDEATHSIG
  "if os.getppid() == int(sys.argv[1]): os.execvp(sys.argv[2], sys.argv[2:])\n"
)
_TAIL = 4096  # bytes of a log in which the last line is looked for


class Job(NamedTuple):
  """One launch: its folder and its command."""

  folder: Path
  command: list[str]

  @property
  def is_done(self) -> bool:
    """True if the run has left its results."""
    return (self.folder / stages.RESULTS).exists()

  @property
  def diverged(self) -> list[str]:
    """Names of the stages that diverged, while the run finished the others."""
    path = self.folder / stages.RESULTS
    content = json.loads(path.read_text()) if self.is_done else {}
    return [stage["name"] for stage in content.get("diverged", ())]

  @property
  def log(self) -> Path:
    """File of the output of the run, beside its folder."""
    return self.folder.with_suffix(".log")

  @property
  def name(self) -> str:
    """Name in the study and seed of the run."""
    return f"{self.folder.parent.name}/{self.folder.name}"


class Running(NamedTuple):
  """A running launch.

  Attributes:
    job: The launch.
    process: Process of the run.
    slot: Index among the runs that run at the same time, from 0.
    before: Bytes in its log before the start.
  """

  job: Job
  process: subprocess.Popen
  slot: int
  before: int

  @property
  def has_failed(self) -> bool:
    """True if it ended without results. A stage that diverged is a result."""
    if not self.job.is_done:
      return True
    return bool(self.process.returncode) and not self.job.diverged

  @property
  def last_line(self) -> str:
    """The last line in its log."""
    with self.job.log.open("rb") as log:
      size = log.seek(0, os.SEEK_END)
      log.seek(max(self.before, size - _TAIL))
      lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "starting")


def start(job: Job, slot: int, processes: int) -> Running:
  """Starts a launch on its own share of the cores.

  Separate cores keep launches from waiting for one another. The launch has its own
  session, so Ctrl-C does not reach it and only `stop` stops it. On Linux it saves its
  state and ends if the driver is killed.
  """
  job.folder.parent.mkdir(parents=True, exist_ok=True)
  with job.log.open("a") as log:
    before = log.tell()
    process = subprocess.Popen(
      _tied(job.command),
      stdout=log,
      stderr=subprocess.STDOUT,
      start_new_session=True,
      env={**os.environ, **memory_share(processes)},
    )
  if hasattr(os, "sched_setaffinity") and processes > 1:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process.pid, cores[slot % len(cores) :: processes])
  return Running(job, process, slot, before)


def _tied(command: Sequence[str]) -> list[str]:
  """The command of a launch that ends with this process, if the system supports it."""
  if sys.platform != "linux":
    return [*command]
  return [sys.executable, "-S", "-c", _TIED, str(os.getpid()), *command]


def memory_share(processes: int) -> dict[str, str]:
  """Environment that gives each of several processes its share of a GPU's memory.

  Empty for one process. A fraction in the environment is the share of the whole study.

  Raises:
    ValueError: If the environment has a fraction that is not a number within 0..1.
  """
  given = {name: text for name in _FRACTIONS if (text := os.environ.get(name))}
  if processes == 1:
    return {}
  name, text = next(iter(given.items()), (_FRACTIONS[1], str(MEMORY)))
  try:
    fraction = float(text)
  except ValueError:
    fraction = -1.0
  if not 0 < fraction <= 1:
    raise ValueError(
      f"{name}: expected a share of the device's memory within 0..1, got {text!r}"
    )
  return {name: f"{fraction / processes:.4f}"}


def stop(running: Iterable[Running], seconds: float | None = None) -> list[Job]:
  """Asks launches to save their state and end; returns launches that failed.

  Args:
    running: The launches.
    seconds: Time limit, None for no limit. A launch that still runs then is killed. It
      resumes from its previous checkpoint later.
  """
  running = [*running]
  for each in running:
    each.process.send_signal(signal.SIGTERM)
  end = None if seconds is None else time.monotonic() + seconds
  codes = [_wait(each.process, end) for each in running]
  # A launch without signal handlers yet is killed by the signal and has no state.
  well = (0, -signal.SIGTERM, *([] if end is None else [-signal.SIGKILL]))
  return [
    each.job for each, code in zip(running, codes, strict=True) if code not in well
  ]


def _wait(process: subprocess.Popen, end: float | None) -> int:
  """Exit code of a process, which is killed at a given time of `time.monotonic`."""
  if end is None:
    return process.wait()
  try:
    return process.wait(max(end - time.monotonic(), 0))
  except subprocess.TimeoutExpired:
    process.kill()
    return process.wait()

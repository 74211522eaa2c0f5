"""Lock of a work directory, so that only one run at a time writes there.

It is a lock of the operating system on the file `.lock`, which ends with the process
that holds it, even after a crash. The file names the holder.
"""

import contextlib
import datetime
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock

from flowkd_jax.train import _processes

LOCK_FILE = ".lock"

# Errors of file systems without locks, such as some network file systems.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def lock_workdir(
  workdir: str | Path, *, name: str = "workdir", only_existing: bool = False
) -> Iterator[None]:
  """Context that keeps other runs from writing to a work directory.

  Reading needs no lock. A process can lock the same folder several times. If a run has
  several processes, the first one locks, but all must call this function. On a file
  system without locks, a warning is logged.

  Args:
    workdir: The folder; created if it does not exist.
    name: Name of the argument or flag, for messages.
    only_existing: True to do nothing if the folder does not exist.

  Raises:
    ValueError: If another run holds the lock. The message names its host and process.
  """
  folder = Path(workdir).absolute()
  if only_existing and not any(_processes.any_process(folder.is_dir())):
    yield
    return
  lock, refusal = None, None
  if _processes.is_first_process():
    folder.mkdir(parents=True, exist_ok=True)
    lock, refusal = _acquired(folder, name)
  (refused,) = _processes.any_process(refusal is not None)
  if refused:
    raise ValueError(
      refusal or f"{name}: the first process could not lock {folder}; see its message"
    )
  try:
    yield
  finally:
    if lock is not None:
      lock.release()


def _acquired(
  folder: Path, name: str
) -> tuple[filelock.BaseFileLock | None, str | None]:
  """Lock, or a message about its holder; neither on file systems without locks."""
  lock = filelock.FileLock(
    folder / LOCK_FILE,
    blocking=False,
    thread_local=False,
    is_singleton=True,
    fallback_to_soft=False,  # A soft lock would remain after a process is killed.
    preserve_lock_file=True,
    on_acquired=_sign,
  )
  try:
    lock.acquire()
  except filelock.Timeout:
    return None, (
      f"{name}: {folder} is in use by {_holder(folder)}; wait for it, stop it, or use "
      "another folder"
    )
  except (NotImplementedError, OSError) as error:
    if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
      raise
    _LOG.warning(
      "%s has no file locks (%s): nothing prevents a second run there", folder, error
    )
    return None, None
  return lock, None


def _sign(descriptor: int) -> None:
  """Write the holder of the lock to its file."""
  started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
  holder = {
    "host": socket.gethostname(),
    "process": os.getpid(),
    "started": started,
    "command": " ".join(sys.argv)[:1000],
  }
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, (json.dumps(holder) + "\n").encode(), 0)


def _holder(folder: Path) -> str:
  """Description of the process that holds the lock, from the lock file."""
  try:
    holder = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
    return (
      f"process {holder['process']} on host {holder['host']}, which began at "
      f"{holder['started']} ({holder['command']})"
    )
  except (OSError, ValueError, KeyError, TypeError):
    return "another process"

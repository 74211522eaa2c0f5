"""Lock of a work directory: one run at a time writes there.

The lock is the operating system's, on the file `.lock`: it is gone with the process
that held it, however that ended. The file says who holds it.
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

# Errors of file systems that have no locks, as some network file systems.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def lock_workdir(
  workdir: str | Path, *, name: str = "workdir", only_existing: bool = False
) -> Iterator[None]:
  """Keeps other runs out of a work directory while inside.

  Reading needs no lock. A process can lock the same folder several times; of several
  processes of a run the first locks, and all must call this. On a file system without
  locks there is a warning in the log.

  Args:
    workdir: The folder; created if it does not exist.
    name: Name of the argument or flag, for messages.
    only_existing: If the folder does not exist, neither create nor lock it.

  Raises:
    ValueError: If another run holds the folder; names its host and process.
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
  """The lock, or a message why another run has it; neither without locks."""
  lock = filelock.FileLock(
    folder / LOCK_FILE,
    blocking=False,
    thread_local=False,
    is_singleton=True,
    fallback_to_soft=False,  # A soft lock would outlive a process that is killed.
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
      "%s has no file locks (%s): nothing stops a second run there", folder, error
    )
    return None, None
  return lock, None


def _sign(descriptor: int) -> None:
  """Writes who holds the lock into its file."""
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
  """Description of the process that holds the lock, as far as its file tells."""
  try:
    holder = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
    return (
      f"process {holder['process']} on host {holder['host']}, which began at "
      f"{holder['started']} ({holder['command']})"
    )
  except (OSError, ValueError, KeyError, TypeError):
    return "another process"

"""Paths that flags name, looked at before any work: nothing is written here."""

import errno
import os
from pathlib import Path

__all__ = [
  "FILE",
  "FOLDER",
  "KINDS",
  "NEW_FILE",
  "NEW_FOLDER",
  "PERHAPS_FOLDER",
  "check",
  "message",
]

NEW_FOLDER, NEW_FILE = "folder to write to", "file to write to"
FOLDER, FILE = "folder to read", "file to read"
# Where a folder need not exist, as nothing may have to be read from it.
PERHAPS_FOLDER = "folder to read, if it exists"
KINDS = (NEW_FOLDER, NEW_FILE, FOLDER, FILE, PERHAPS_FOLDER)

_LONGEST_NAME, _LONGEST_PATH = 255, 3500  # leaves room for the names of files inside


def check(flag: str, path: str, kind: str) -> None:
  """Raises ValueError unless a path can be read, or written to, as it will be.

  Args:
    flag: The flag that names the path.
    path: The path.
    kind: One of `KINDS`.
  """
  try:
    _look(Path(path).absolute(), kind)
  except OSError as error:
    reason = os.strerror(error.errno) if error.errno else str(error)
    raise ValueError(f"{flag}: expected a {kind}, got {path} ({reason})") from None


def message(error: BaseException, workdir: str) -> str:
  """One sentence for an error: of the file system, the file and what is wrong.

  Args:
    error: The error.
    workdir: Work directory, named where the file system names no file.
  """
  if not isinstance(error, OSError) or not error.strerror:
    return str(error)
  place = error.filename or (f"--workdir={workdir}" if workdir else "file system")
  return f"{place}: {error.strerror}"


def _look(path: Path, kind: str) -> None:
  """Raises OSError as reading or writing would."""
  is_folder = kind in (NEW_FOLDER, FOLDER, PERHAPS_FOLDER)
  exists = _exists(path)
  if not exists and kind == PERHAPS_FOLDER:
    return
  if exists and path.is_dir() != is_folder:
    raise OSError(errno.EISDIR if path.is_dir() else errno.ENOTDIR, "")
  if kind in (NEW_FOLDER, NEW_FILE):
    # A file is replaced by a new one, for which its folder has to be writable too.
    _check_access(path, os.W_OK) if exists else _check_parents(path)
  else:
    path.stat()
    _check_access(path, os.R_OK)


def _exists(path: Path) -> bool:
  """Returns whether the path exists; raises OSError if no path can have that name."""
  names = [len(os.fsencode(part)) for part in path.parts]
  if max(names) > _LONGEST_NAME or sum(names) > _LONGEST_PATH:
    raise OSError(errno.ENAMETOOLONG, "")
  try:
    path.lstat()
  except FileNotFoundError:
    return False
  path.stat()  # a link into nowhere is refused
  return True


def _check_parents(path: Path) -> None:
  """Raises OSError unless folders can be made up to the path."""
  parent = next(each for each in path.parents if each.exists())
  if not parent.is_dir():
    raise OSError(errno.ENOTDIR, "")
  _check_access(parent, os.W_OK)


def _check_access(path: Path, access: int) -> None:
  if not os.access(path, access | (os.X_OK if path.is_dir() else 0)):
    raise OSError(errno.EACCES, "")

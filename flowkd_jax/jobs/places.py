"""Checks of the paths that flags name, before any work; nothing is written."""

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
# For folders that may not be needed, such as --data_dir for a data set without files.
PERHAPS_FOLDER = "folder to read, if it exists"
KINDS = (NEW_FOLDER, NEW_FILE, FOLDER, FILE, PERHAPS_FOLDER)

_LONGEST_NAME, _LONGEST_PATH = 255, 3500  # leaves room for the names of files inside


def check(flag: str, path: str, kind: str) -> None:
  """Raise ValueError unless a path can be read or written as its kind demands.

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
  """Message for an error; for an error of the file system, the file and the reason.

  Args:
    error: The error.
    workdir: Work directory, which the message names if the error names no file.
  """
  if not isinstance(error, OSError) or not error.strerror:
    return str(error)
  place = error.filename or (f"--workdir={workdir}" if workdir else "file system")
  return f"{place}: {error.strerror}"


def _look(path: Path, kind: str) -> None:
  """Raise the OSError that reading or writing would raise."""
  is_folder = kind in (NEW_FOLDER, FOLDER, PERHAPS_FOLDER)
  exists = _exists(path)
  if not exists and kind == PERHAPS_FOLDER:
    return
  if exists and path.is_dir() != is_folder:
    raise OSError(errno.EISDIR if path.is_dir() else errno.ENOTDIR, "")
  if kind in (NEW_FOLDER, NEW_FILE):
    # Writing replaces the file by a new one, so its folder must be writable too.
    _check_access(path, os.W_OK) if exists else _check_parents(path)
  else:
    path.stat()
    _check_access(path, os.R_OK)


def _exists(path: Path) -> bool:
  """Returns whether the path exists; raises OSError if the name is too long."""
  names = [len(os.fsencode(part)) for part in path.parts]
  if max(names) > _LONGEST_NAME or sum(names) > _LONGEST_PATH:
    raise OSError(errno.ENAMETOOLONG, "")
  try:
    path.lstat()
  except FileNotFoundError:
    return False
  path.stat()  # raises for a broken link
  return True


def _check_parents(path: Path) -> None:
  """Raise OSError unless the missing folders of the path can be made."""
  parent = next(each for each in path.parents if each.exists())
  if not parent.is_dir():
    raise OSError(errno.ENOTDIR, "")
  _check_access(parent, os.W_OK)


def _check_access(path: Path, access: int) -> None:
  if not os.access(path, access | (os.X_OK if path.is_dir() else 0)):
    raise OSError(errno.EACCES, "")

"""Compilation cache: a folder in which JAX keeps compiled programs for later runs.

When a job starts again, it reads its programs from the cache instead of compiling them.
The cache never changes results; it can be deleted at any time.

JAX executes the programs that it finds in the folder. The default folder therefore
belongs to the user, and is not used if another user may write to it.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import platform
import sys
from pathlib import Path

import filelock
import jax
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from flowkd_jax.jobs import environment
from flowkd_jax.jobs import fields

__all__ = [
  "OFF",
  "Config",
  "default_folder",
  "use_folder",
]

OFF = "off"

# Environment variables of JAX for the same settings. If they are set, they win.
_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
_OPTIONS = {
  # With a size limit, JAX locks the folder while it reads and writes, so that several
  # processes can share it.
  "jax_compilation_cache_max_size": 2**31,
  # For programs that compile faster, storing costs as much as compiling.
  "jax_persistent_cache_min_compile_time_secs": 0.1,
  "jax_persistent_cache_min_entry_size_bytes": -1,
}
_LOCK_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Config:
  """Flag of the compilation cache."""

  compilation_cache: str | None = fields.setting(
    None,
    "Folder in which compiled programs are kept for later runs, up to 2 GiB; "
    f"{OFF} disables it. Without the flag: the environment variable {_DIRECTORY} if it "
    "is set, otherwise flowkd_jax in the user's cache folder ($XDG_CACHE_HOME, by "
    "default ~/.cache).",
  )


def use_folder(values: flags.FlagValues) -> None:
  """Make JAX keep compiled programs in the folder that the flag names.

  Raises:
    ValueError: If the folder of the flag cannot be written.
  """
  given = values.compilation_cache
  if given is None:
    if _DIRECTORY not in os.environ:
      _use_default()
  elif given == OFF:
    jax.config.update("jax_compilation_cache_dir", None)
  elif not given.strip():
    raise ValueError(f"--compilation_cache: expected a folder or {OFF}, got {given!r}")
  else:
    folder = Path(given).expanduser().absolute()
    try:
      _use(folder)
    except OSError as error:
      raise ValueError(
        f"--compilation_cache: cannot write to {folder} ({error.strerror or error}); "
        f"name another folder, or {OFF}"
      ) from None


def default_folder() -> Path | None:
  """Default folder of this user, by the XDG rules; None without a home folder."""
  base = os.environ.get("XDG_CACHE_HOME", "")
  if not os.path.isabs(base):  # The XDG rules ignore relative paths.
    try:
      base = Path.home() / ".cache"
    except RuntimeError:
      return None
  return Path(base) / "flowkd_jax" / "compiled"


def _use_default() -> None:
  """Use the default folder if it is writable and belongs to the user."""
  folder = default_folder()
  if folder is None:
    return
  try:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _is_own(folder):
      print(
        f"warning: {folder} belongs to another user or others may write to it, so "
        "compiled programs are not kept; change its owner and mode, or name a folder "
        "by --compilation_cache",
        file=sys.stderr,
        flush=True,
      )
      return
    _use(folder)
  except OSError:  # Such as a read-only home folder: every run compiles.
    return


def _is_own(folder: Path) -> bool:
  if not hasattr(os, "getuid"):
    return True
  found = folder.stat()
  return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _use(folder: Path) -> None:
  """Make JAX use a subfolder of `folder` for this kind of processor."""
  folder = folder / _machine()
  folder.mkdir(parents=True, exist_ok=True, mode=0o700)
  if not os.access(folder, os.W_OK | os.X_OK):
    raise PermissionError(f"no permission to write to {folder}")
  _remove_cut_entries(folder)
  for name, value in _OPTIONS.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # The logger would report each reset.
  logging.getLogger("jax._src.compilation_cache").setLevel(logging.WARNING)
  compilation_cache.reset_cache()  # JAX opens the folder only once, at a compilation.


def _machine() -> str:
  """Name shared by all processors with the same instruction set.

  Several machines may share a home folder, and a program compiled for one processor may
  crash on another. The key of JAX's cache does not contain the processor.
  """
  try:
    lines = environment.CPU_INFO.read_text().splitlines()
  except OSError:
    lines = [platform.processor()]
  features = {line for line in lines if line.startswith(("flags", "Features", "model"))}
  digest = hashlib.sha256("\n".join(sorted(features)).encode()).hexdigest()
  return f"{platform.machine() or 'machine'}-{digest[:12]}"


def _remove_cut_entries(folder: Path) -> None:
  """Remove programs that a killed process wrote only in part.

  JAX would read them at every start, fail and compile. JAX writes the time of an entry
  after the entry, so an entry without a time is incomplete.
  """
  lock = filelock.FileLock(folder / ".lockfile")  # the lock that JAX takes
  with contextlib.suppress(filelock.Timeout), lock.acquire(timeout=_LOCK_SECONDS):
    for entry in folder.glob("*-cache"):
      time = entry.with_name(f"{entry.name.removesuffix('-cache')}-atime")
      if not time.exists() or not time.stat().st_size:
        entry.unlink(missing_ok=True)
        time.unlink(missing_ok=True)

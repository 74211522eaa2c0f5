"""Files of runs in archives of a queue, with paths that are valid on every machine.

Paths below the work directory are written as `{queue}/...` in settings, because the
next machine may have another work directory.
"""

import json
from pathlib import Path
from pathlib import PurePosixPath

from flowkd_jax.jobs import job_run

_ROOT = "{queue}"


def packed(path: Path, root: Path) -> bytes:
  """Content of a file for an archive.

  Args:
    path: The file.
    root: Work directory of the queue.
  """
  content = path.read_bytes()
  if path.name != job_run.CONFIG:
    return content
  before = json.dumps(str(root))[1:-1]
  return content.decode().replace(f"{before}/", f"{_ROOT}/").encode()


def write(folder: Path, name: str, content: bytes, root: Path) -> None:
  """Writes a file of an archive.

  Args:
    folder: Folder to write to.
    name: Name of the file in the archive.
    content: Content of the file.
    root: Work directory of the queue, to which paths in settings are changed.

  Raises:
    ValueError: If the name points outside the folder.
  """
  inside = PurePosixPath(name)
  if ".." in inside.parts or inside.is_absolute():
    raise ValueError(f"expected files of runs in an archive of a queue, got {name}")
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.name == job_run.CONFIG:
    here = json.dumps(str(root.absolute()))[1:-1]
    content = content.decode().replace(f"{_ROOT}/", f"{here}/").encode()
  path.write_bytes(content)

"""Bundles of finished runs that a queue leaves in its folder.

    bundles.zip   STUDY/RUN/SEED/ of each finished run: settings (config.json),
                  metrics.jsonl, and results.json with commit, versions, device

All bundles are in one file, because some machines return only a few files.
"""

import zipfile
import zlib
from pathlib import Path
from pathlib import PurePosixPath

from experiments.studies import queue_files
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import stages

FILE = "bundles.zip"
_BUNDLED = (job_run.CONFIG, "metrics.jsonl", stages.RESULTS)


def add(out: Path, root: Path, name: str) -> None:
  """Adds a finished run to the bundles in a folder, in place of an earlier one.

  Args:
    out: The folder; made if it does not exist.
    root: Work directory of the queue.
    name: The run, STUDY/RUN/SEED.

  Raises:
    ValueError: If there is a damaged file of bundles.
  """
  contents = {
    f"{name}/{file}": queue_files.packed(root / name / file, root)
    for file in _BUNDLED
    if (root / name / file).exists()
  }
  _write(out, _entries(out) | contents)


def copy(source: Path, out: Path) -> None:
  """Adds the bundles of another folder, except of runs that are in both folders.

  Args:
    source: Folder of an earlier queue.
    out: The folder; made if it does not exist.

  Raises:
    ValueError: If there is a damaged file of bundles.
  """
  if source.resolve() == out.resolve() or not (source / FILE).exists():
    return
  here = names(out)
  found = {
    name: content
    for name, content in _entries(source).items()
    if str(PurePosixPath(name).parent) not in here
  }
  _write(out, _entries(out) | found)


def names(folder: Path) -> set[str]:
  """Names STUDY/RUN/SEED of the bundles in a folder; none without their file.

  Raises:
    ValueError: If their file is damaged.
  """
  paths = [PurePosixPath(name) for name in _entries(folder)]
  return {str(path.parent) for path in paths if path.name == stages.RESULTS}


def extract(folder: Path, root: Path) -> None:
  """Writes the bundles as folders ROOT/STUDY/RUN/SEED, which `tables.update` reads.

  Args:
    folder: Folder of the queue.
    root: Folder to write to; made if it does not exist.

  Raises:
    ValueError: If there are no bundles, or their file is damaged.
  """
  if not (folder / FILE).exists():
    raise ValueError(
      f"expected {FILE} of a queue in {folder}, got none: no run is finished there, or "
      "it is not the --out of a call with --budget_minutes"
    )
  for name, content in _entries(folder).items():
    queue_files.write(root, name, content, root)


def _entries(folder: Path) -> dict[str, bytes]:
  """Contents by name. All are read, so that damage within the file is detected."""
  path = folder / FILE
  if not path.exists():
    return {}
  try:
    with zipfile.ZipFile(path) as archive:
      return {name: archive.read(name) for name in archive.namelist()}
  except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
    raise ValueError(
      f"{path}: expected the bundles of a queue, got a damaged file ({error}); copy it "
      "again, or move it away to go on without the runs in it"
    ) from None


def _write(out: Path, contents: dict[str, bytes]) -> None:
  """Writes all bundles atomically: a reader sees the old file or the new one."""
  out.mkdir(parents=True, exist_ok=True)
  temporary = out / f".{FILE}"
  try:
    with zipfile.ZipFile(temporary, "w") as archive:
      for name, content in contents.items():
        archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    temporary.replace(out / FILE)
  finally:
    temporary.unlink(missing_ok=True)

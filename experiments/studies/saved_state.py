"""State of unfinished runs, as files under 16 MB for another machine.

    state.000, state.001   work directories of unfinished runs, and the networks that
                           these runs start from: one archive (tar, gzip), cut into
                           parts

The archive has the newest checkpoint of each stage, including the optimizer state.
"""

import gzip
import io
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from pathlib import PurePosixPath

from experiments.studies import queue_files
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import stages

NAME = "state"
PART_BYTES = 15_000_000
_LEFT_OUT = ("tensorboard", "pictures", ".lock")


def pack(out: Path, root: Path, runs: Iterable[str]) -> list[Path]:
  """Packs the folders of runs into parts under 16 MB; replaces an earlier state.

  Args:
    out: Folder to write to; made if it does not exist.
    root: Work directory of the queue.
    runs: The runs, STUDY/RUN/SEED.

  Returns:
    The parts; none if there are no runs.

  Raises:
    OSError: If the parts cannot be written; the earlier state is still there.
  """
  out.mkdir(parents=True, exist_ok=True)
  made = out / ".packing"
  shutil.rmtree(made, ignore_errors=True)
  made.mkdir()
  try:
    if runs := [*runs]:
      _write_parts(made, root, runs)
    # The earlier state is removed only after the new one is complete.
    for old in parts(out):
      old.unlink()
    for part in parts(made):
      part.rename(out / part.name)
  finally:
    shutil.rmtree(made, ignore_errors=True)
  return parts(out)


def unpack(source: Path, root: Path) -> list[str]:
  """Unpacks the state that `pack` wrote.

  If the work directory already has a run, the run is replaced only if the state has the
  same settings and more progress.

  Args:
    source: Folder with the parts.
    root: Work directory of the queue.

  Returns:
    Names of the runs in the state.

  Raises:
    ValueError: If a part is missing or damaged.
  """
  found = parts(source)
  if not found:
    return []
  numbers = [int(part.suffix[1:]) for part in found]
  if numbers != [*range(len(found))]:
    listed = ", ".join(part.name for part in found)
    raise ValueError(
      f"{source}: expected all parts of the state from {NAME}.000 on, got {listed}; "
      "copy the missing ones"
    )
  unpacked = root / ".unpacking"
  shutil.rmtree(unpacked, ignore_errors=True)
  try:
    runs = sorted(_read_parts(source, found, unpacked, root))
    for run in runs:
      if _is_wanted(unpacked / run, root / run):
        shutil.rmtree(root / run, ignore_errors=True)
        # The rename makes the folder appear complete, or not at all.
        (root / run).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / run).rename(root / run)
  finally:
    shutil.rmtree(unpacked, ignore_errors=True)
  return runs


def parts(folder: Path) -> list[Path]:
  """Parts of the state in a folder, in order."""
  return sorted(
    (path for path in folder.glob(f"{NAME}.*") if re.fullmatch(r"\.\d+", path.suffix)),
    key=lambda path: int(path.suffix[1:]),
  )


def progress(folder: Path) -> tuple[int, int]:
  """Finished stages of a run, and the steps of the newest checkpoints of the others."""
  done = len([*folder.glob(f"*/{stages.RESULTS}"), *folder.glob(stages.RESULTS)])
  return done, sum(_newest(folder).values())


def _is_wanted(new: Path, here: Path) -> bool:
  if not here.exists():
    return True
  settings = [path / job_run.CONFIG for path in (new, here)]
  texts = [path.read_text() if path.exists() else "" for path in settings]
  return texts[0] == texts[1] and progress(new) > progress(here)


def _write_parts(folder: Path, root: Path, runs: Iterable[str]) -> None:
  with (
    _PartsWriter(folder) as written,
    gzip.GzipFile(fileobj=written, mode="wb", compresslevel=1, mtime=0) as packed,
    tarfile.open(fileobj=packed, mode="w|") as archive,
  ):
    for run in runs:
      for path in _packed_files(root / run):
        content = queue_files.packed(path, root)
        about = tarfile.TarInfo(str(PurePosixPath(path.relative_to(root))))
        about.size = len(content)
        archive.addfile(about, io.BytesIO(content))


def _read_parts(source: Path, found: list[Path], into: Path, root: Path) -> set[str]:
  """Unpacks the archive; returns the names of its runs."""
  runs = set()
  try:
    with (
      _PartsReader(found) as joined,
      gzip.GzipFile(fileobj=joined, mode="rb") as packed,
      tarfile.open(fileobj=packed, mode="r|") as archive,
    ):
      for member in archive:
        file = archive.extractfile(member)
        if file is not None:
          runs.add("/".join(PurePosixPath(member.name).parts[:3]))
          queue_files.write(into, member.name, file.read(), root)
      # The checksum is at the end of the file, and tarfile may stop before it.
      while packed.read(2**20):
        pass
  except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise  # an error of the file system, such as a full disk
    raise ValueError(
      f"{source}: expected a whole state, got one that is damaged or lacks its last "
      f"parts ({error}); copy {NAME}.* again"
    ) from error
  return runs


def _newest(folder: Path) -> dict[Path, int]:
  """Step of the newest checkpoint of every stage, by the folder of its checkpoints."""
  newest: dict[Path, int] = {}
  for step in folder.glob("*/checkpoints/[0-9]*"):
    if step.name.isdecimal():
      newest[step.parent] = max(newest.get(step.parent, 0), int(step.name))
  return newest


def _packed_files(folder: Path) -> Iterator[Path]:
  """Files of a work directory, with only the newest checkpoint of each stage."""
  newest = _newest(folder)
  for path in sorted(folder.rglob("*")):
    if not path.is_file():
      continue
    stage, *rest = path.relative_to(folder).parts
    if stage in _LEFT_OUT:
      continue
    is_checkpoint = len(rest) > 2 and rest[0] == "checkpoints"
    if not is_checkpoint or rest[1] == str(newest.get(folder / stage / rest[0])):
      yield path


class _PartsWriter(io.RawIOBase):
  """File that is cut into parts: a new part begins when one is full."""

  def __init__(self, folder: Path):
    super().__init__()
    self.folder, self.number, self.left = folder, -1, 0
    self.part: io.BufferedWriter | None = None

  def writable(self) -> bool:
    return True

  def write(self, data) -> int:
    view = memoryview(data).cast("B")
    written = 0
    while written < len(view):
      part = self._next() if self.part is None or not self.left else self.part
      chunk = view[written : written + self.left]
      part.write(chunk)
      written, self.left = written + len(chunk), self.left - len(chunk)
    return written

  def close(self) -> None:
    if self.part is not None:
      self.part.close()
    super().close()

  def _next(self) -> io.BufferedWriter:
    if self.part is not None:
      self.part.close()
    self.number, self.left = self.number + 1, PART_BYTES
    self.part = (self.folder / f"{NAME}.{self.number:03}").open("wb")
    return self.part


class _PartsReader(io.RawIOBase):
  """The parts, one after another, as one file."""

  def __init__(self, parts: list[Path]):
    super().__init__()
    self.parts = [*parts]
    self.part: io.BufferedReader | None = None

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    while True:
      if self.part is None:
        if not self.parts:
          return 0
        self.part = self.parts.pop(0).open("rb")
      read = self.part.readinto(buffer)
      if read:
        return read
      self.part.close()
      self.part = None

  def close(self) -> None:
    if self.part is not None:
      self.part.close()
    super().close()

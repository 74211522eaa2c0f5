"""Files that a queue of runs leaves, and those with which a later one goes on.

    bundles.zip            STUDY/RUN/SEED/ of each finished run: settings (config.json),
                           metrics.jsonl, and results.json with commit, versions, device
    state.000, state.001   work directories of runs that are not finished, and the
                           networks from which runs that are left start: one archive
                           (tar, gzip), cut into files under 16 MB

Few files, as some machines give back only a few. A state holds the newest checkpoint of
each stage, optimizer state included. Paths below the work directory are written as
`{queue}/...`, so that the next machine may have its folder elsewhere.
"""

import gzip
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from pathlib import PurePosixPath

from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import stages

BUNDLES = "bundles.zip"
STATE = "state"
PART_BYTES = 15_000_000
_ROOT = "{queue}"
_BUNDLED = (job_run.CONFIG, "metrics.jsonl", stages.RESULTS)
_LEFT_OUT = ("tensorboard", "pictures", ".lock")


def add(out: Path, root: Path, name: str) -> None:
  """Adds a finished run to the bundles in a folder, in place of an earlier one.

  Args:
    out: The folder; made if it does not exist.
    root: Work directory of the queue.
    name: The run, STUDY/RUN/SEED.
  """
  contents = {
    f"{name}/{file}": _portable(root / name / file, root).encode()
    for file in _BUNDLED
    if (root / name / file).exists()
  }
  _rewrite(out / BUNDLES, contents)


def copy(source: Path, out: Path) -> None:
  """Adds all bundles of another folder.

  Args:
    source: Folder of an earlier queue.
    out: The folder; made if it does not exist.
  """
  if source.resolve() == out.resolve() or not (source / BUNDLES).exists():
    return
  with zipfile.ZipFile(source / BUNDLES) as found:
    _rewrite(out / BUNDLES, {name: found.read(name) for name in found.namelist()})


def names(folder: Path) -> set[str]:
  """Names STUDY/RUN/SEED of the bundles in a folder.

  Raises:
    ValueError: If their file is damaged.
  """
  if not (folder / BUNDLES).exists():
    return set()
  with _opened(folder) as found:
    paths = [PurePosixPath(name) for name in found.namelist()]
  return {str(path.parent) for path in paths if path.name == stages.RESULTS}


def extract(folder: Path, root: Path) -> None:
  """Writes the bundles as folders ROOT/STUDY/RUN/SEED, which `tables.update` reads.

  Args:
    folder: Folder of the queue.
    root: Folder to write to; made if it does not exist.

  Raises:
    ValueError: If there are no bundles, or their file is damaged.
  """
  if not (folder / BUNDLES).exists():
    raise ValueError(f"expected {BUNDLES} of a queue in {folder}, got none")
  with _opened(folder) as found:
    for name in found.namelist():
      _write(root, name, found.read(name), root)


def pack(out: Path, root: Path, runs: Iterable[str]) -> list[Path]:
  """Packs the folders of runs into parts under 16 MB; replaces an earlier state.

  Args:
    out: Folder to write to; made if it does not exist.
    root: Work directory of the queue.
    runs: The runs, STUDY/RUN/SEED.

  Returns:
    The parts; none if there are no runs.
  """
  out.mkdir(parents=True, exist_ok=True)
  made = out / ".packing"
  shutil.rmtree(made, ignore_errors=True)
  made.mkdir()
  if runs := [*runs]:
    with (
      _PartsWriter(made) as parts,
      gzip.GzipFile(fileobj=parts, mode="wb", compresslevel=1, mtime=0) as packed,
      tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
      for run in runs:
        for path in _packed_files(root / run):
          _add_file(archive, path, root)
  # The earlier state goes only when the new one is whole.
  for old in _parts(out):
    old.unlink()
  for part in _parts(made):
    part.rename(out / part.name)
  made.rmdir()
  return _parts(out)


def unpack(source: Path, root: Path) -> None:
  """Unpacks what `pack` has left; runs that the work directory has are kept.

  Args:
    source: Folder with the parts.
    root: Work directory of the queue.

  Raises:
    ValueError: If a part is missing or damaged.
  """
  parts = _parts(source)
  if not parts:
    return
  numbers = [int(part.suffix[1:]) for part in parts]
  if numbers != [*range(len(parts))]:
    found = ", ".join(part.name for part in parts)
    raise ValueError(
      f"{source}: expected all parts of the state from {STATE}.000 on, got {found}; "
      "copy the missing ones"
    )
  unpacked = root / ".unpacking"
  shutil.rmtree(unpacked, ignore_errors=True)
  runs = set()
  try:
    with (
      _PartsReader(parts) as joined,
      gzip.GzipFile(fileobj=joined, mode="rb") as packed,
      tarfile.open(fileobj=packed, mode="r|") as archive,
    ):
      for member in archive:
        file = archive.extractfile(member)
        if file is not None:
          runs.add("/".join(PurePosixPath(member.name).parts[:3]))
          _write(unpacked, member.name, file.read(), root)
  except (EOFError, OSError, tarfile.TarError) as error:
    raise ValueError(
      f"{source}: expected a whole state, got one that is damaged or lacks its last "
      f"parts ({error}); copy {STATE}.* again"
    ) from error
  for run in sorted(runs):
    if not (root / run).exists():  # a folder appears whole, or not at all
      (root / run).parent.mkdir(parents=True, exist_ok=True)
      (unpacked / run).rename(root / run)
  shutil.rmtree(unpacked)


def _packed_files(folder: Path) -> Iterator[Path]:
  """Files of a work directory: of the checkpoints of a stage only the newest."""
  newest: dict[Path, int] = {}
  for step in folder.glob("*/checkpoints/[0-9]*"):
    if step.name.isdecimal():
      newest[step.parent] = max(newest.get(step.parent, 0), int(step.name))
  for path in sorted(folder.rglob("*")):
    if not path.is_file():
      continue
    stage, *rest = path.relative_to(folder).parts
    if stage in _LEFT_OUT:
      continue
    is_checkpoint = len(rest) > 2 and rest[0] == "checkpoints"
    if not is_checkpoint or rest[1] == str(newest.get(folder / stage / rest[0])):
      yield path


def _add_file(archive: tarfile.TarFile, path: Path, root: Path) -> None:
  content = path.read_bytes()
  if path.name == job_run.CONFIG:
    content = _portable(path, root).encode()
  about = tarfile.TarInfo(str(PurePosixPath(path.relative_to(root))))
  about.size = len(content)
  archive.addfile(about, io.BytesIO(content))


def _portable(path: Path, root: Path) -> str:
  """Text of a file; in settings the work directory of the queue is `{queue}`."""
  text = path.read_text()
  if path.name != job_run.CONFIG:
    return text
  return text.replace(json.dumps(str(root))[1:-1] + "/", f"{_ROOT}/")


def _write(folder: Path, name: str, content: bytes, root: Path) -> None:
  """Writes a file of an archive; paths in settings are those below `root`."""
  path = folder / name
  if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
    raise ValueError(f"expected files of runs in an archive of a queue, got {name}")
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.name == job_run.CONFIG:
    here = json.dumps(str(root.absolute()))[1:-1]
    content = content.decode().replace(f"{_ROOT}/", f"{here}/").encode()
  path.write_bytes(content)


def _rewrite(path: Path, contents: dict[str, bytes]) -> None:
  """Replaces entries of an archive; a reader sees the old file or the new one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  entries = {}
  if path.exists():
    with zipfile.ZipFile(path) as before:
      entries = {name: before.read(name) for name in before.namelist()}
  temporary = path.with_name(f".{path.name}")
  with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in (entries | contents).items():
      archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
  temporary.replace(path)


def _opened(folder: Path) -> zipfile.ZipFile:
  try:
    return zipfile.ZipFile(folder / BUNDLES)
  except zipfile.BadZipFile as error:
    raise ValueError(
      f"{folder / BUNDLES}: expected the bundles of a queue, got a damaged file "
      f"({error}); copy it again"
    ) from None


def _parts(folder: Path) -> list[Path]:
  return sorted(
    (path for path in folder.glob(f"{STATE}.*") if re.fullmatch(r"\.\d+", path.suffix)),
    key=lambda path: int(path.suffix[1:]),
  )


class _PartsWriter(io.RawIOBase):
  """File that goes on in a new part wherever one is full."""

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
    self.part = (self.folder / f"{STATE}.{self.number:03}").open("wb")
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

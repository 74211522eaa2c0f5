"""Storage of a teacher's outputs on every example; any framework can fill it.

Layout of the folder, N examples, augmentation of epoch E:

    cache.json             what it is: {"format", "key", "num_examples", "stored_as",
                           "row_shapes": {NAME: [...]}}
    NAME/0000E.npy         [N, ...]: row i is the output for example i of the split
    NAME/0000E.rows.npy    uint32 [N]: CRC-32 of the bytes of that row (1 if that is 0);
                           0 if the row is not there

NAME is "logits" or "taps/TAP". Examples without random augmentation look the same in
every epoch: there is only epoch 0. Values are float32, float16, or bfloat16 as the
uint16 of its bits. `key` says of what the outputs are: the teacher, the data set and
the augmentation.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from flowkd_jax import _files
from flowkd_jax._numerics import checks

CACHE_DTYPES = {
  "float32": np.dtype(np.float32),
  "float16": np.dtype(np.float16),
  "bfloat16": np.dtype(jnp.bfloat16),
}
DESCRIPTION = "cache.json"
_FORMAT = "flowkd_jax teacher cache 1"
_HEADER = 128  # bytes of a .npy before its values


class TeacherCache:
  """A folder of a teacher's outputs, by epoch and example.

  Processes of one machine may share a folder; those of several machines may only read
  it together.

  Attributes:
    directory: The folder.
    key: Teacher, data and augmentation of the outputs.
    row_shapes: Shape of a row of every output, by name.
    num_examples: Examples of the split.
    stored_as: Type of the values on disk.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    key: Mapping[str, Any],
    row_shapes: Mapping[str, tuple[int, ...]],
    num_examples: int,
    stored_as: str = "float32",
  ):
    """Opens the folder, or makes it.

    Args:
      directory: The folder.
      key: Anything that JSON can hold; a folder with another key is refused.
      row_shapes: The outputs that are read and written: "logits", "taps/TAP". Those
        that the folder has beside them stay.
      num_examples: Examples of the split.
      stored_as: One of `CACHE_DTYPES`.

    Raises:
      ValueError: If the folder holds other outputs than these, or is damaged.
    """
    checks.check_choice("stored_as", stored_as, tuple(CACHE_DTYPES))
    checks.check_count("num_examples", num_examples)
    self.directory = Path(directory).absolute()
    self.key = json.loads(json.dumps(key))
    self.row_shapes = {name: tuple(shape) for name, shape in row_shapes.items()}
    self.num_examples, self.stored_as = num_examples, stored_as
    self._files: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
    held = {}
    if (self.directory / DESCRIPTION).exists():
      held = self._check(describe_cache(self.directory))
    elif self.directory.is_dir() and any(self.directory.iterdir()):
      raise ValueError(
        f"{self.directory}: expected a teacher cache or an empty folder, found other "
        f"files and no {DESCRIPTION}; choose another folder"
      )
    if not self.row_shapes.keys() <= held.keys():
      self._describe({**held, **self.row_shapes})

  @property
  def epoch_bytes(self) -> int:
    """Size on disk of the outputs of one epoch."""
    item = CACHE_DTYPES[self.stored_as].itemsize
    return sum(
      self.num_examples * (item * int(np.prod(shape)) + 4) + 2 * _HEADER
      for shape in self.row_shapes.values()
    )

  @property
  def used_bytes(self) -> int:
    """Size on disk of what the folder holds."""
    return sum(path.stat().st_size for path in self.directory.rglob("*.npy"))

  def has_epoch(self, epoch: int) -> bool:
    """Returns whether there is a place for the rows of this epoch, filled or not."""
    return all(self._path(name, epoch).exists() for name in self.row_shapes)

  def is_complete(self, epoch: int) -> bool:
    """Returns whether all rows of this epoch have been written."""
    return self.has_epoch(epoch) and all(
      self._open(name, epoch)[1].all() for name in self.row_shapes
    )

  def read(
    self, epoch: int, index: Int[np.ndarray, " rows"]
  ) -> dict[str, np.ndarray] | None:
    """The outputs for these examples, by name; None if one of them is not there.

    Raises:
      ValueError: If a file is damaged.
    """
    if not self.has_epoch(epoch):
      return None
    outputs = {}
    for name in self.row_shapes:
      values, sums = self._open(name, epoch)
      rows, expected = values[index], sums[index]
      if not expected.all():
        return None
      if not np.array_equal(_checksums(rows), expected):
        raise ValueError(
          f"{self._path(name, epoch)} is damaged: what is there is not what was "
          "written; delete that file and it is filled again"
        )
      outputs[name] = rows.view(CACHE_DTYPES[self.stored_as])
    return outputs

  def write(
    self,
    epoch: int,
    index: Int[np.ndarray, " rows"],
    outputs: Mapping[str, np.ndarray],
  ) -> None:
    """Keeps the outputs for these examples, by name.

    Raises:
      ValueError: If an output is missing, of another shape, or not finite in the
        type that is stored.
      OSError: If the disk is full; what was written before stays good.
    """
    stored = {}
    for name, shape in self.row_shapes.items():
      if name not in outputs or np.shape(outputs[name]) != (len(index), *shape):
        got = np.shape(outputs[name]) if name in outputs else "nothing"
        raise ValueError(
          f"outputs: expected {name} of shape {(len(index), *shape)}, got {got}"
        )
      with np.errstate(over="ignore"):
        rows = np.asarray(outputs[name]).astype(CACHE_DTYPES[self.stored_as])
      if not np.isfinite(rows.astype(np.float32)).all():
        raise ValueError(
          f"outputs: {name} is not finite as {self.stored_as} (epoch {epoch}); store "
          "bfloat16 or float32 if float16 overflows"
        )
      stored[name] = np.ascontiguousarray(rows).view(_on_disk(self.stored_as))
    for name, rows in stored.items():
      values, sums = self._open(name, epoch)
      values[index] = rows
      sums[index] = _checksums(rows)

  def _path(self, name: str, epoch: int) -> Path:
    return self.directory / name / f"{epoch:05d}.npy"

  def _open(self, name: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    if (name, epoch) not in self._files:
      # Files of the epoch before are not needed any more.
      self._files = {k: v for k, v in self._files.items() if k[1] == epoch}
      path = self._path(name, epoch)
      if not path.exists():  # deleted, as damaged: nothing is there
        path.with_suffix(".rows.npy").unlink(missing_ok=True)
      shape = self.num_examples, *self.row_shapes[name]
      self._files[name, epoch] = (
        _mapped(path, shape, _on_disk(self.stored_as)),
        _mapped(path.with_suffix(".rows.npy"), shape[:1], np.dtype(np.uint32)),
      )
    return self._files[name, epoch]

  def _describe(self, row_shapes) -> None:
    content = {
      "format": _FORMAT,
      "key": self.key,
      "num_examples": self.num_examples,
      "stored_as": self.stored_as,
      "row_shapes": row_shapes,
    }
    _files.write_json(self.directory / DESCRIPTION, content)

  def _check(self, found: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of what the folder holds, if these are the outputs that are wanted."""
    different = [
      f"{name}: {found['key'].get(name)} there, {self.key.get(name)} here"
      for name in {**found["key"], **self.key}
      if found["key"].get(name) != self.key.get(name)
    ]
    for name in ("num_examples", "stored_as"):
      if found[name] != getattr(self, name):
        different.append(f"{name}: {found[name]} there, {getattr(self, name)} here")
    held = {name: tuple(shape) for name, shape in found["row_shapes"].items()}
    different += [
      f"{name}: rows of shape {held[name]} there, {shape} here"
      for name, shape in self.row_shapes.items()
      if held.get(name, shape) != shape
    ]
    if different:
      raise ValueError(
        f"{self.directory} holds the outputs of something else ({'; '.join(different)})"
        "; choose another folder, or delete this one"
      )
    return held


def describe_cache(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """Contents of `cache.json` of a teacher cache.

  Raises:
    FileNotFoundError: If there is none.
    ValueError: If it is damaged, or not that of a teacher cache.
  """
  path = Path(directory) / DESCRIPTION
  if not path.exists():
    raise FileNotFoundError(f"expected a teacher cache, found no {path}")
  found = _files.read_json(path, "delete the folder and it is filled again")
  wanted = {"format", "key", "num_examples", "stored_as", "row_shapes"}
  found = found if isinstance(found, dict) else {}
  if not wanted <= found.keys() or not isinstance(found["key"], dict):
    raise ValueError(
      f"{path} is not of a teacher cache: expected {sorted(wanted)}; "
      "delete the folder and it is filled again"
    )
  if found["format"] != _FORMAT:
    raise ValueError(f"{path}: expected {_FORMAT!r}, got {found['format']!r}")
  return found


def _on_disk(stored_as: str) -> np.dtype:
  """NumPy's files know no bfloat16: its bits are stored."""
  return np.dtype(np.uint16) if stored_as == "bfloat16" else CACHE_DTYPES[stored_as]


def _checksums(rows: np.ndarray) -> np.ndarray:
  flat = rows.reshape(len(rows), -1).view(np.uint8)
  sums = [zlib.crc32(row.data) or 1 for row in flat]
  return np.array(sums, np.uint32)


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """The array in a file, made of zeros if there is none."""
  if not path.exists():
    _allocate(path, shape, dtype)
  try:
    np.load(path, mmap_mode="r")  # "r+" would make a file that is cut off longer
    array = np.load(path, mmap_mode="r+")
  except OSError:
    raise
  except Exception as error:  # noqa: BLE001 (NumPy raises what its parsers raise)
    raise ValueError(f"{path} is damaged ({error}); delete it") from None
  if array.shape != shape or array.dtype != dtype:
    raise ValueError(
      f"{path} is damaged: expected {dtype} of shape {shape}, got {array.dtype} of "
      f"shape {array.shape}; delete it"
    )
  return array


def _allocate(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
  """Makes the file whole, so that a full disk is met here and not in the middle."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.{os.getpid()}")
  try:
    np.lib.format.open_memmap(temporary, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
      with temporary.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    # Another process may have made it meanwhile, and filled some.
    if not path.exists():
      temporary.rename(path)
  finally:
    temporary.unlink(missing_ok=True)

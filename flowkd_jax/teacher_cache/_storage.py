"""Files of a teacher cache; any framework can write them.

Layout of the folder, N examples, augmentation of epoch E:

    cache.json             description: {"format", "key", "num_examples", "stored_as",
                           "row_shapes": {NAME: [...]}}
    NAME/0000E.npy         [N, ...]: row i is the output for example i of the split
    NAME/0000E.rows.npy    uint32 [N]: CRC-32 of the bytes of each row (1 if it is 0);
                           0 if the row has not been written

NAME is "logits" or "taps/TAP". Without random augmentation, examples are equal in all
epochs, and there is only epoch 0. Values are float32 or float16, or the bits of
bfloat16 as uint16. `key` identifies the outputs: teacher, data set and augmentation.

The checksum of a row is written after its values. A process that is killed in between
therefore leaves a row that counts as missing or, if it existed before, as damaged, but
never a wrong row.
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
_HEADER = 128  # bytes of the header of a .npy file


class TeacherCache:
  """Folder with the outputs of a teacher, by epoch and example.

  Processes of one machine may share a folder. Processes of several machines may share
  it only for reading.

  Attributes:
    directory: The folder.
    key: Teacher, data and augmentation of the outputs.
    row_shapes: Shape of a row of each output, by name.
    num_examples: Number of examples of the split.
    stored_as: Data type of the values on disk.
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
    """Open or create the folder.

    Args:
      directory: The folder.
      key: Values that JSON can hold. A folder with another key is an error.
      row_shapes: Shapes of the outputs to read and write, by name: "logits",
        "taps/TAP". Other outputs in the folder are kept.
      num_examples: Number of examples of the split.
      stored_as: Data type on disk, one of `CACHE_DTYPES`.

    Raises:
      ValueError: If the folder holds outputs with another description, or is damaged.
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
    """Size on disk of the outputs of one epoch, in bytes."""
    item = CACHE_DTYPES[self.stored_as].itemsize
    return sum(
      self.num_examples * (item * int(np.prod(shape)) + 4) + 2 * _HEADER
      for shape in self.row_shapes.values()
    )

  @property
  def used_bytes(self) -> int:
    """Size on disk of all outputs in the folder, in bytes."""
    return sum(path.stat().st_size for path in self.directory.rglob("*.npy"))

  def has_epoch(self, epoch: int) -> bool:
    """Returns whether the files of an epoch exist, filled or not."""
    return all(self._path(name, epoch).exists() for name in self.row_shapes)

  def is_complete(self, epoch: int) -> bool:
    """Returns whether all rows of an epoch have been written."""
    return self.has_epoch(epoch) and all(
      self._open(name, epoch)[1].all() for name in self.row_shapes
    )

  def read(
    self, epoch: int, index: Int[np.ndarray, " rows"]
  ) -> dict[str, np.ndarray] | None:
    """Read outputs of examples, by name; None if one of them is missing.

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
          f"{self._path(name, epoch)} is damaged: rows do not match their checksums; "
          "delete the file, and it is filled again"
        )
      outputs[name] = rows.view(CACHE_DTYPES[self.stored_as])
    return outputs

  def write(
    self,
    epoch: int,
    index: Int[np.ndarray, " rows"],
    outputs: Mapping[str, np.ndarray],
  ) -> None:
    """Write outputs of examples, by name.

    Raises:
      ValueError: If an output is missing, has another shape, or is not finite in the
        data type on disk.
      OSError: If the disk is full. Earlier rows stay valid.
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
      # Close files of other epochs: each open file maps its memory.
      self._files = {k: v for k, v in self._files.items() if k[1] == epoch}
      path = self._path(name, epoch)
      if not path.exists():  # deleted by the user as damaged: no row is valid
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
    """Shapes of the outputs in the folder; ValueError if the description differs."""
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
        f"{self.directory} holds other outputs ({'; '.join(different)}); choose "
        "another folder, or delete this one"
      )
    return held


def describe_cache(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """Contents of `cache.json` of a teacher cache.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is damaged, or does not describe a teacher cache.
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
  """Data type in the file; .npy files lack bfloat16, so its bits are stored."""
  return np.dtype(np.uint16) if stored_as == "bfloat16" else CACHE_DTYPES[stored_as]


def _checksums(rows: np.ndarray) -> np.ndarray:
  flat = rows.reshape(len(rows), -1).view(np.uint8)
  sums = [zlib.crc32(row.data) or 1 for row in flat]
  return np.array(sums, np.uint32)


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Map the array of a file into memory; a missing file is made of zeros."""
  if not path.exists():
    _allocate(path, shape, dtype)
  try:
    np.load(path, mmap_mode="r")  # raises for a truncated file; "r+" would extend it
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
  """Create a file at its full size, so that a full disk raises an error here.

  Otherwise, writing to the mapped memory of a full disk would kill the process.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.{os.getpid()}")
  try:
    np.lib.format.open_memmap(temporary, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
      with temporary.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    # Another process may have created it meanwhile and written rows.
    if not path.exists():
      temporary.rename(path)
  finally:
    temporary.unlink(missing_ok=True)

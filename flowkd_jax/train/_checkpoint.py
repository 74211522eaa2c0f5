"""Checkpoints with Orbax: checked when they are read, the older one if one is damaged.

Arrays are saved as host copies: independent of the number of devices, of donation and
of the process they came from. Orbax writes them while training goes on. Random keys are
saved as their data. All arrays of one dtype are one array in the file; format 2 stored
them one by one, and is still read. A checksum over all arrays is saved with them;
version 0.1 saved none, and what it left is read with a warning.
"""

import copy
import logging
import re
from collections.abc import Mapping
from collections.abc import Set
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax import dtypes

from flowkd_jax import _files
from flowkd_jax.train import _packed
from flowkd_jax.train import _structure

PyTree = Any

FORMAT = "flowkd_jax checkpoint 2"
PACKED = "flowkd_jax checkpoint 3"  # all arrays of one dtype are stored as one


def _is_worth_reading(record: logging.LogRecord) -> bool:
  """False for Orbax's reports of each save, and of each wait for the one before."""
  if "orbax" not in record.pathname:
    return True
  waits = str(record.msg).startswith("Waiting for previous save")
  return record.levelno > logging.INFO and not waits


logging.getLogger("absl").addFilter(_is_worth_reading)

# Orbax expands the first three as patterns, its storage refuses the fourth.
_UNUSABLE = re.compile(r"[\[*?\\]|:/|:$")


class OtherStateError(ValueError):
  """A checkpoint is whole, but of another state than the one to be filled."""


def check_folder(path: str | Path, *, name: str) -> Path:
  """The absolute path of a folder that Orbax can write to and read from.

  Args:
    path: The folder.
    name: Name of the argument, for the message.

  Raises:
    ValueError: If the path has characters that Orbax takes for a pattern.
  """
  absolute = Path(path).absolute()
  if _UNUSABLE.search(str(absolute)):
    raise ValueError(
      f"{name}: expected a path without [, *, ?, \\ and without parts that end in a "
      f"colon, which Orbax does not take for parts of a name, got {str(absolute)!r}; "
      "rename the folder or use another one"
    )
  return absolute


class Checkpoints:
  """The newest checkpoints of a run, in a folder.

  Attributes:
    directory: The folder.
    problems: A sentence on each checkpoint that was found damaged, or that has no
      checksums.
  """

  def __init__(self, directory: str | Path, *, keep: int = 2):
    """Opens or creates the folder.

    Args:
      directory: The folder.
      keep: Number of checkpoints that are kept; older ones are deleted.

    Raises:
      ValueError: If Orbax cannot use a folder of that name.
    """
    self.directory = check_folder(directory, name="directory")
    policy = ocp.checkpoint_managers.LatestN(n=keep)
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy, enable_async_checkpointing=True
      ),
      item_names=("state", "progress"),
    )
    self.problems: list[str] = []

  def save(self, step: int, state: PyTree, progress: Mapping[str, Any]) -> None:
    """Copies a state to the host and writes it to the folder in the background.

    Training can go on, and the arrays may be donated, once this returns. One
    checkpoint is written at a time: the next call waits for the one before. A
    checkpoint of the same step is replaced.

    Args:
      step: Number of the checkpoint.
      state: The state.
      progress: Anything that JSON can hold.

    Raises:
      Exception: What went wrong when the checkpoint before this one was written, such
        as OSError for a full disk.
    """
    self._manager.wait_until_finished()
    if step in self._manager.all_steps():
      self._manager.delete(step)
    readable = jax.device_get(key_data(state))
    packed = _packed.pack(readable)  # the one copy on the host
    host = _packed.unpack(packed, readable)
    # Written later, when the caller's mapping may have changed.
    description = sealed(host, PACKED, progress=copy.deepcopy(dict(progress)))
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(packed),
        progress=ocp.args.JsonSave(description),
      ),
      force=True,
    )

  def restore(self, template: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest checkpoint that can be read: `(state, progress)`, or None.

    Damaged checkpoints are described in `problems`, and deleted once an older one
    has been read, so that the run can save under their number again.

    Args:
      template: A state of the same structure, shapes and dtypes.

    Raises:
      ValueError: If there are checkpoints but none can be read, or the newest one
        holds another kind of state, with names, shapes and dtypes of the arrays that
        differ. Nothing is deleted then.
    """
    self._manager.wait_until_finished()
    damaged = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state, progress = self._read(step, template)
      except OtherStateError:
        raise
      except Exception as error:  # noqa: BLE001 (Orbax raises many kinds)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        damaged[step] = (
          f"checkpoint of step {step} in {self.directory} is damaged "
          f"({reason[0][:200]})"
        )
        continue
      for number, problem in damaged.items():
        self._manager.delete(number)
        self.problems.append(f"{problem}; going on from step {step}")
      return state, progress
    if damaged:
      raise ValueError(
        f"expected a readable checkpoint in {self.directory}, but none of the steps "
        f"{[*damaged]} can be restored: {'; '.join(damaged.values())}. If the networks "
        "or the optimizer changed, use another workdir; otherwise delete this folder "
        "to start the stage afresh"
      )
    return None

  @property
  def latest(self) -> int | None:
    """Step of the newest checkpoint, None if there is none.

    Waits until it is written.
    """
    self._manager.wait_until_finished()
    return self._manager.latest_step()

  def close(self) -> None:
    """Waits until the last checkpoint is written.

    Raises:
      Exception: What went wrong when it was written.
    """
    self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def _read(self, step: int, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
    host = key_data(template)
    record = self._restore(step, progress=ocp.args.JsonRestore())["progress"]
    old = not {"format", "progress", _files.SEAL} & record.keys()
    if old:
      leaves = stored_structure(self.directory / str(step) / "state")
      description = {"leaves": leaves, "progress": record}
    else:
      description = opened(record, {"progress"})
    place = f"checkpoint of step {step} in {self.directory}"
    difference = _structure.difference(description["leaves"], host, here="this run")
    if difference is not None:
      raise OtherStateError(
        f"{place} holds another state: {difference}. The network, the optimizer or "
        "the method changed: use those of before, or another work directory"
      )
    state = self._stored_state(step, host, description.get("format") == PACKED)
    if old:
      self.problems.append(
        f"{place} was saved by version 0.1, without checksums: damage is not noticed"
      )
    else:
      check_values(description, state)
    return from_host(state, template), dict(description["progress"])

  def _stored_state(self, step: int, template: PyTree, packed: bool) -> PyTree:
    """The arrays, as NumPy arrays."""
    expected = _packed.blank(template) if packed else to_host(template)
    args = ocp.args.StandardRestore(expected)
    found = self._restore(step, state=args)["state"]
    return _packed.unpack(found, template) if packed else found

  def _restore(self, step: int, **items: Any) -> Any:
    return self._manager.restore(step, args=ocp.args.Composite(**items))


def sealed(host: PyTree, form: str = FORMAT, **others: Any) -> dict[str, Any]:
  """Description of host arrays and other entries, with a checksum over all of it."""
  return _files.seal(
    {
      "format": form,
      "leaves": _structure.structure(host),
      "values": _structure.checksum(host),
      **others,
    }
  )


def opened(record: Mapping[str, Any], others: Set[str] = frozenset()) -> dict[str, Any]:
  """The entries of what `sealed` returned.

  Raises:
    ValueError: If an entry is missing or changed.
    OtherStateError: If the format is a later one.
  """
  if record.keys() != {"format", "leaves", "values", _files.SEAL} | others:
    raise ValueError("its description is not whole")
  description = _files.unseal(record)
  if description["format"] not in (FORMAT, PACKED):
    raise OtherStateError(
      f"expected the format {FORMAT!r} or {PACKED!r}, got "
      f"{description['format']!r}; use the version of flowkd_jax that wrote it"
    )
  return description


def stored_structure(path: Path) -> _structure.Structure:
  """Structure of the arrays in a folder, as Orbax describes them."""
  with ocp.StandardCheckpointer() as checkpointer:
    return _structure.structure(checkpointer.metadata(path).item_metadata.tree)


def check_values(description: Mapping[str, Any], host: PyTree) -> None:
  """Raises ValueError unless the arrays are those that were described."""
  if _structure.checksum(host) != description["values"]:
    raise ValueError("its arrays do not match their checksum")


def to_host(tree: PyTree) -> PyTree:
  """The tree with NumPy copies of its arrays, and the data of its random keys."""
  # A copy: on CPU the array itself would be a view of a buffer soon donated.
  return jax.tree.map(np.array, key_data(tree))


def key_data(tree: PyTree) -> PyTree:
  """The tree with the data of its random keys, and with numbers as NumPy arrays."""

  def readable(leaf):
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)

  return jax.tree.map(readable, tree)


def from_host(tree: PyTree, template: PyTree) -> PyTree:
  """The tree with random keys where the template has them."""

  def wrap(leaf, like):
    if not _is_key(like):
      return leaf
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))

  return jax.tree.map(wrap, tree, template)


def _is_key(leaf: Any) -> bool:
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jax.numpy.issubdtype(dtype, dtypes.prng_key)

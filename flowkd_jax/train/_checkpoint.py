"""Checkpoints with checksums, stored by Orbax.

A checkpoint is verified when it is read; if it is damaged, the next older one is used.
Arrays are saved as host copies, so a checkpoint does not depend on the number of
devices or processes, and Orbax writes it while training continues. Random keys are
saved as their data. All arrays of one dtype are stored as one array, because Orbax
spends over a millisecond on each array; format 2, which stored them one by one, can
still be read. Checkpoints of version 0.1 have no checksum and are read with a warning.
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
  """False for Orbax's logs of each save, and of each wait for the previous one."""
  if "orbax" not in record.pathname:
    return True
  waits = str(record.msg).startswith("Waiting for previous save")
  return record.levelno > logging.INFO and not waits


logging.getLogger("absl").addFilter(_is_worth_reading)

# Orbax expands [, * and ? as patterns; its storage refuses the other cases.
_UNUSABLE = re.compile(r"[\[*?\\]|:/|:$")


class OtherStateError(ValueError):
  """Error for an intact checkpoint that holds a state of another structure."""


def check_folder(path: str | Path, *, name: str) -> Path:
  """Absolute path of a folder that Orbax can use.

  Args:
    path: The folder.
    name: Name of the argument, for the message.

  Raises:
    ValueError: If the path has characters that Orbax cannot handle.
  """
  absolute = Path(path).absolute()
  if _UNUSABLE.search(str(absolute)):
    raise ValueError(
      f"{name}: expected a path without [, *, ?, \\ and without parts that end in a "
      f"colon, as Orbax cannot handle them in names, got {str(absolute)!r}; rename the "
      "folder or use another one"
    )
  return absolute


class Checkpoints:
  """Newest checkpoints of a run, in a folder.

  Attributes:
    directory: The folder.
    problems: A sentence about each checkpoint that is damaged or has no checksum.
  """

  def __init__(self, directory: str | Path, *, keep: int = 2):
    """Open or create the folder.

    Args:
      directory: The folder.
      keep: Number of checkpoints to keep; older ones are deleted.

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
    """Copy a state to the host and write it to the folder in the background.

    When this returns, training can continue and the arrays may be donated. Only one
    checkpoint is written at a time: the next call waits for the previous one. A
    checkpoint of the same step is replaced.

    Args:
      step: Number of updates done.
      state: State of the method.
      progress: Position of the run, as values that JSON can hold.

    Raises:
      Exception: If the previous checkpoint could not be written; for example, OSError
        for a full disk.
    """
    self._manager.wait_until_finished()
    if step in self._manager.all_steps():
      self._manager.delete(step)
    readable = jax.device_get(key_data(state))
    packed = _packed.pack(readable)  # the only copy: donation may free the state
    host = _packed.unpack(packed, readable)  # views of the copy
    # A copy, because it is written later, when the caller's mapping may have changed.
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
    """Read the newest intact checkpoint: `(state, progress)`; None without one.

    Damaged checkpoints are described in `problems`. They are deleted only after an
    older one has been read, so that the run can save under their numbers again.

    Args:
      template: A state of the same structure, shapes and dtypes.

    Raises:
      ValueError: If there are checkpoints but none can be read, or the newest one holds
        a state of another structure. The message lists arrays that differ. Nothing is
        deleted.
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
    """Step of the newest checkpoint; None if there is none.

    Waits until the checkpoint is written.
    """
    self._manager.wait_until_finished()
    return self._manager.latest_step()

  def close(self) -> None:
    """Wait until the last checkpoint is written, and close the folder.

    Raises:
      Exception: If the checkpoint could not be written.
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
        "the method changed: use the earlier ones, or another work directory"
      )
    state = self._stored_state(step, host, description.get("format") == PACKED)
    if old:
      self.problems.append(
        f"{place} was saved by version 0.1, without checksums: damage cannot be "
        "detected"
      )
    else:
      check_values(description, state)
    return from_host(state, template), dict(description["progress"])

  def _stored_state(self, step: int, template: PyTree, packed: bool) -> PyTree:
    """Stored state, as NumPy arrays."""
    expected = _packed.blank(template) if packed else to_host(template)
    args = ocp.args.StandardRestore(expected)
    found = self._restore(step, state=args)["state"]
    return _packed.unpack(found, template) if packed else found

  def _restore(self, step: int, **items: Any) -> Any:
    return self._manager.restore(step, args=ocp.args.Composite(**items))


def sealed(host: PyTree, form: str = FORMAT, **others: Any) -> dict[str, Any]:
  """Description of host arrays and further entries, with a checksum over everything."""
  return _files.seal(
    {
      "format": form,
      "leaves": _structure.structure(host),
      "values": _structure.checksum(host),
      **others,
    }
  )


def opened(record: Mapping[str, Any], others: Set[str] = frozenset()) -> dict[str, Any]:
  """Verify a result of `sealed` and return its entries.

  Raises:
    ValueError: If an entry is missing or changed.
    OtherStateError: If a later version wrote the format.
  """
  if record.keys() != {"format", "leaves", "values", _files.SEAL} | others:
    raise ValueError("its description is incomplete")
  description = _files.unseal(record)
  if description["format"] not in (FORMAT, PACKED):
    raise OtherStateError(
      f"expected the format {FORMAT!r} or {PACKED!r}, got "
      f"{description['format']!r}; use the version of flowkd_jax that wrote it"
    )
  return description


def stored_structure(path: Path) -> _structure.Structure:
  """Structure of the arrays in a folder, from Orbax's metadata."""
  with ocp.StandardCheckpointer() as checkpointer:
    return _structure.structure(checkpointer.metadata(path).item_metadata.tree)


def check_values(description: Mapping[str, Any], host: PyTree) -> None:
  """Raise ValueError unless the arrays match their checksum."""
  if _structure.checksum(host) != description["values"]:
    raise ValueError("its arrays do not match their checksum")


def to_host(tree: PyTree) -> PyTree:
  """Copy a tree to NumPy arrays; random keys become their data."""
  # A copy, because on CPU a NumPy view would share a buffer that is donated later.
  return jax.tree.map(np.array, key_data(tree))


def key_data(tree: PyTree) -> PyTree:
  """Replace random keys by their data, and Python numbers by NumPy arrays."""

  def readable(leaf):
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)

  return jax.tree.map(readable, tree)


def from_host(tree: PyTree, template: PyTree) -> PyTree:
  """Restore random keys where the template has them."""

  def wrap(leaf, like):
    if not _is_key(like):
      return leaf
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))

  return jax.tree.map(wrap, tree, template)


def _is_key(leaf: Any) -> bool:
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jax.numpy.issubdtype(dtype, dtypes.prng_key)

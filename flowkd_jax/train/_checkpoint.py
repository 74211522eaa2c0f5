"""Checkpoints with Orbax, and what to do when the newest one is damaged.

Arrays are saved as host copies: independent of the number of devices, of donation and
of the process they came from. Random keys are saved as their data.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax import dtypes

from flowkd_jax import methods

PyTree = Any

# Orbax reports every save and restore at INFO.
logging.getLogger("absl").addFilter(
  lambda record: "orbax" not in record.pathname or record.levelno > logging.INFO
)


class Checkpoints:
  """The newest checkpoints of a run, in a folder."""

  def __init__(self, directory: str | Path, *, keep: int = 2):
    """Opens or creates the folder; of older checkpoints than `keep` none stays."""
    self.directory = Path(directory).absolute()
    policy = ocp.checkpoint_managers.LatestN(n=keep)
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy, enable_async_checkpointing=False
      ),
      item_names=("state", "progress"),
    )
    self.problems: list[str] = []

  def save(self, step: int, state: PyTree, progress: Mapping[str, Any]) -> None:
    """Saves a state; `progress` is anything that JSON can hold.

    A checkpoint of the same step is replaced.
    """
    if step in self._manager.all_steps():
      self._manager.delete(step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_to_host(state)),
        progress=ocp.args.JsonSave(dict(progress)),
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
      ValueError: If there are checkpoints but none can be read, or they hold another
        kind of state; nothing is deleted then.
    """
    unreadable = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(_to_host(template)),
            progress=ocp.args.JsonRestore(),
          ),
        )
        state = _from_host(restored["state"], template)
      except Exception as error:  # noqa: BLE001 (Orbax raises many kinds)
        unreadable.append(step)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        self.problems.append(
          f"checkpoint of step {step} in {self.directory} is damaged "
          f"({reason[0][:200]})"
        )
        continue
      for damaged in unreadable:
        self._manager.delete(damaged)
      return state, dict(restored["progress"])
    if unreadable:
      raise ValueError(
        f"expected a readable checkpoint in {self.directory}, but none of the steps "
        f"{unreadable} can be restored: {'; '.join(self.problems)}. If the networks or "
        "the optimizer changed, use another workdir; otherwise delete this folder to "
        "start the stage afresh"
      )
    return None

  @property
  def latest(self) -> int | None:
    """Step of the newest checkpoint, None if there is none."""
    return self._manager.latest_step()

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()


def save_network(directory: str | Path, network: methods.Network) -> None:
  """Saves the variables of a network, replacing what is there."""
  with ocp.StandardCheckpointer() as checkpointer:
    path = Path(directory).absolute()
    checkpointer.save(path, _to_host(dict(network.variables)), force=True)


def load_network(directory: str | Path, template: methods.Network) -> methods.Network:
  """The network with the variables that `save_network` wrote.

  Args:
    directory: Where they were written.
    template: The same model with variables of the right shapes.

  Raises:
    FileNotFoundError: If nothing was saved there.
    ValueError: If the variables are those of another model.
  """
  path = Path(directory).absolute()
  if not path.is_dir():
    raise FileNotFoundError(f"expected a saved network in {path}, found nothing")
  abstract = _to_host(dict(template.variables))
  with ocp.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore(path, abstract)
  _check_same_shapes(variables, abstract, path)
  return template._replace(variables=variables)


def _check_same_shapes(found: PyTree, expected: PyTree, path: Path) -> None:
  """Orbax restores an array as it was saved, of whatever shape."""
  leaves = jax.tree.leaves(found)
  for (key, leaf), other in zip(
    jax.tree.leaves_with_path(expected), leaves, strict=True
  ):
    if leaf.shape != other.shape:
      raise ValueError(
        f"{path} holds another model: expected {jax.tree_util.keystr(key)} of shape "
        f"{leaf.shape}, got {other.shape}"
      )


def _is_key(leaf: Any) -> bool:
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jax.numpy.issubdtype(dtype, dtypes.prng_key)


def _to_host(tree: PyTree) -> PyTree:
  def copy(leaf):
    # A copy: on CPU the array itself would be a view of a buffer soon donated.
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)

  return jax.tree.map(copy, tree)


def _from_host(tree: PyTree, template: PyTree) -> PyTree:
  def wrap(leaf, like):
    return jax.random.wrap_key_data(leaf) if _is_key(like) else leaf

  return jax.tree.map(wrap, tree, template)

"""Saved networks: variables with Orbax, checked when they are read."""

import json
import logging
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from flowkd_jax import methods
from flowkd_jax._numerics import finite_weights
from flowkd_jax.train import _checkpoint
from flowkd_jax.train import _structure

PyTree = Any

# The file in which Orbax keeps the metadata of a user, and its entry and ours in it.
_METADATA_FILE = "_CHECKPOINT_METADATA"
_USERS = "custom_metadata"
_OURS = "flowkd_jax"

_LOG = logging.getLogger(__name__)


def save_network(directory: str | Path, network: methods.Network) -> None:
  """Saves the variables of a network with a checksum, replacing what is there.

  Args:
    directory: The folder to write.
    network: The network.

  Raises:
    ValueError: If Orbax cannot use a folder of that name.
  """
  path = _checkpoint.check_folder(directory, name="directory")
  host = _checkpoint.to_host(dict(network.variables))
  metadata = {_OURS: _checkpoint.sealed(host)}
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, host, force=True, custom_metadata=metadata)


def load_network(directory: str | Path, template: methods.Network) -> methods.Network:
  """The network with the variables that `save_network` wrote.

  A network that version 0.1 saved has no checksum: it is read with a warning in the
  log.

  Args:
    directory: Folder in which they were written.
    template: The same model with variables of the right shapes.

  Raises:
    FileNotFoundError: If nothing was saved there.
    ValueError: If the variables are those of another model, damaged, NaN or infinite.
  """
  path = Path(directory).absolute()
  if not path.is_dir():
    raise FileNotFoundError(f"expected a saved network in {path}, found nothing")
  try:
    variables = _read(path, template)
  except (_checkpoint.OtherStateError, PermissionError):
    raise
  except Exception as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    _checkpoint.check_folder(path, name="directory")  # Orbax reads not all of those.
    raise ValueError(
      f"the network saved in {path} is damaged ({reason[0][:200]}); delete the folder "
      "of its stage and train it again, or restore a copy"
    ) from error
  finite_weights.check_finite(str(path), finite_weights.by_path(variables))
  return template._replace(variables=variables)


def _read(path: Path, template: methods.Network) -> PyTree:
  expected = _checkpoint.to_host(dict(template.variables))
  with ocp.StandardCheckpointer() as checkpointer:
    description = _description(path)
    if description is None:
      _LOG.warning(
        "%s was saved by version 0.1, without checksums: damage is not noticed", path
      )
      found = _checkpoint.stored_structure(path)
    else:
      found = description["leaves"]
    difference = _structure.difference(found, expected, here="this model")
    if difference is not None:
      raise _checkpoint.OtherStateError(f"{path} holds another model: {difference}")
    variables = checkpointer.restore(path, expected)
  if description is not None:
    _checkpoint.check_values(description, variables)
  return _checkpoint.from_host(variables, template.variables)


def _description(path: Path) -> dict[str, Any] | None:
  """Structure and checksum that were saved with the variables; None by version 0.1.

  Orbax reads a damaged file of metadata as an empty one, hence not by Orbax.
  """
  metadata = json.loads((path / _METADATA_FILE).read_text(encoding="utf-8"))
  if metadata[_USERS] == {}:
    return None
  return _checkpoint.opened(metadata[_USERS][_OURS])

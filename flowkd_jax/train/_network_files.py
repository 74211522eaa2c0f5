"""Files of trained networks, stored by Orbax and verified when they are read."""

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

# Orbax's file of custom metadata, its entry for custom metadata, and our entry in it.
_METADATA_FILE = "_CHECKPOINT_METADATA"
_USERS = "custom_metadata"
_OURS = "flowkd_jax"

_LOG = logging.getLogger(__name__)


def save_network(directory: str | Path, network: methods.Network) -> None:
  """Save the variables of a network with a checksum; existing files are replaced.

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
  """Load the network that `save_network` wrote.

  A network of version 0.1 has no checksum; reading it logs a warning.

  Args:
    directory: Folder of the network.
    template: The same model, with variables of the right shapes.

  Raises:
    FileNotFoundError: If there is no network in the folder.
    ValueError: If the variables belong to another model, are damaged, or are not
      finite.
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
    # A path that Orbax cannot read looks damaged: the name is the better message.
    _checkpoint.check_folder(path, name="directory")
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
        "%s was saved by version 0.1, without checksums: damage cannot be detected",
        path,
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
  """Structure and checksum saved with the variables; None for version 0.1.

  The file is not read by Orbax, which returns a damaged metadata file as an empty one.
  """
  metadata = json.loads((path / _METADATA_FILE).read_text(encoding="utf-8"))
  if metadata[_USERS] == {}:
    return None
  return _checkpoint.opened(metadata[_USERS][_OURS])

"""Names, shapes, dtypes and checksum of the arrays of a state."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

PyTree = Any
Structure = dict[str, list[Any]]

_SHOWN = 3


def structure(tree: PyTree) -> Structure:
  """`{name: [dtype, shape]}` of every array; of Orbax metadata as of arrays."""
  return {
    name: [str(np.dtype(leaf.dtype)), [int(size) for size in leaf.shape]]
    for name, leaf in _named(tree).items()
  }


def checksum(tree: PyTree) -> str:
  """SHA-256 over names, dtypes, shapes and values of the NumPy arrays of a tree."""
  digest = hashlib.sha256()
  for name, leaf in sorted(_named(tree).items()):
    digest.update(f"{name} {np.dtype(leaf.dtype)} {leaf.shape}\n".encode())
    digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def difference(found: Mapping[str, Any], template: PyTree, *, here: str) -> str | None:
  """A sentence on the first arrays that differ, or None if the structures agree.

  Args:
    found: Structure of what was stored.
    template: The arrays to be filled.
    here: Name of what is to be filled, for the sentence.
  """
  expected = structure(template)
  different = [
    f"{name} is {_shown(found.get(name))} there and {_shown(expected.get(name))} in "
    f"{here}"
    for name in sorted({**found, **expected})
    if found.get(name) != expected.get(name)
  ]
  if not different:
    return None
  more = len(different) - _SHOWN
  return "; ".join(different[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _shown(array: list[Any] | None) -> str:
  return f"{array[0]}{array[1]}" if array is not None else "absent"


def _named(tree: PyTree) -> dict[str, Any]:
  """Leaves by the names that Orbax gives them, whatever classes the tree is of."""
  flat = ocp.tree.to_flat_dict(tree)
  return {".".join(map(str, path)): leaf for path, leaf in flat.items()}

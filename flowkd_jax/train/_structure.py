"""Structure of a state: names, shapes, dtypes and checksum of its arrays."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

PyTree = Any
Structure = dict[str, list[Any]]

_SHOWN = 3


def structure(tree: PyTree) -> Structure:
  """Structure `{name: [dtype, shape]}` of a tree of arrays or of Orbax metadata."""
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
  """Sentence about the first arrays that differ; None if the structures agree.

  Args:
    found: Stored structure.
    template: Tree of the expected arrays.
    here: Name of the expected tree, for the sentence.
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
  """Leaves by Orbax's names, which do not depend on the classes of the tree."""
  flat = ocp.tree.to_flat_dict(tree)
  return {".".join(map(str, path)): leaf for path, leaf in flat.items()}

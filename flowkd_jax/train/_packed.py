"""Packing of the arrays of a tree into one flat buffer for each dtype.

Orbax spends more than a millisecond of processor time to store an array of any size,
and the state of a deep network has hundreds of small arrays.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

PyTree = Any
Packed = dict[str, np.ndarray]


def pack(tree: PyTree) -> Packed:
  """Copy the arrays of a tree into one buffer for each dtype.

  The arrays are sorted by path, so that the order of the fields of a class does not
  matter.

  Args:
    tree: Arrays that NumPy can read.

  Returns:
    Arrays `[elements]` by the name of their dtype; dtypes without elements are left
    out.
  """
  packed = blank(tree)
  views = _views(packed, tree)
  for path, leaf in ocp.tree.to_flat_dict(tree).items():
    views[path][...] = np.asarray(leaf)
  return packed


def unpack(packed: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
  """Restore a packed tree; its arrays are views of the buffers.

  Args:
    packed: Buffers that `pack` made of a tree like the template.
    template: Tree of the same structure, shapes and dtypes.
  """
  return ocp.tree.from_flat_dict(_views(packed, template), target=template)


def blank(tree: PyTree) -> Packed:
  """Make buffers of zeros for the arrays of a tree."""
  dtypes, sizes = {}, {}
  for leaf in ocp.tree.to_flat_dict(tree).values():
    dtype = np.dtype(leaf.dtype)
    dtypes[dtype.name] = dtype
    sizes[dtype.name] = sizes.get(dtype.name, 0) + leaf.size
  return {
    name: np.zeros(size, dtypes[name]) for name, size in sorted(sizes.items()) if size
  }


def _views(
  packed: Mapping[str, np.ndarray], tree: PyTree
) -> dict[tuple[Any, ...], np.ndarray]:
  """Views of the buffers that hold the arrays of the tree, by path."""
  ends = dict.fromkeys(packed, 0)
  flat = ocp.tree.to_flat_dict(tree)
  views = {}
  for path in sorted(flat, key=lambda path: tuple(map(str, path))):
    leaf = flat[path]
    dtype = np.dtype(leaf.dtype)
    begin, end = ends.get(dtype.name, 0), ends.get(dtype.name, 0) + leaf.size
    ends[dtype.name] = end
    buffer = packed.get(dtype.name, np.zeros(0, dtype))
    views[path] = buffer[begin:end].reshape(leaf.shape)
  return views

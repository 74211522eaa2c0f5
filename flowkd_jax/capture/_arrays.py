"""Conversion of the arrays of a model to a flat dictionary, and back."""

from typing import Any
from typing import NamedTuple

import jax

PyTree = Any


class Layout(NamedTuple):
  """Structure of a tree, which rebuilds the tree from its arrays by name."""

  names: tuple[str, ...]
  structure: Any

  def tree(self, arrays: dict[str, jax.Array]) -> PyTree:
    """Rebuild the tree from its arrays."""
    return self.structure.unflatten([arrays[name] for name in self.names])


def by_path(tree: PyTree) -> tuple[dict[str, jax.Array], Layout]:
  """Arrays of a tree by path, and the layout that rebuilds the tree."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
    for path, _ in leaves
  ]
  if len(set(names)) < len(names):  # ambiguous: a key contains a slash
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
  arrays = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}
  return arrays, Layout(tuple(names), structure)

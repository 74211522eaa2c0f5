"""Arrays of a model as a flat dictionary, and back."""

from typing import Any
from typing import NamedTuple

import jax

PyTree = Any


class Layout(NamedTuple):
  """Structure of a tree, to put it together again from its arrays by name."""

  names: tuple[str, ...]
  structure: Any

  def tree(self, arrays: dict[str, jax.Array]) -> PyTree:
    """The tree that holds these arrays."""
    return self.structure.unflatten([arrays[name] for name in self.names])


def by_path(tree: PyTree) -> tuple[dict[str, jax.Array], Layout]:
  """The arrays of a tree by their path, and the layout of the rest."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
    for path, _ in leaves
  ]
  if len(set(names)) < len(names):  # a key has a slash in it
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
  arrays = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}
  return arrays, Layout(tuple(names), structure)

"""Arrays of a model as a flat dictionary, and back."""

from typing import Any
from typing import NamedTuple

import jax

PyTree = Any


class Layout(NamedTuple):
  """How a tree is put together again from its arrays by name."""

  names: tuple[str, ...]
  structure: Any

  def tree(self, arrays: dict[str, jax.Array]) -> PyTree:
    """The tree that holds these arrays."""
    return self.structure.unflatten([arrays[name] for name in self.names])


def by_path(tree: PyTree) -> tuple[dict[str, jax.Array], Layout]:
  """The arrays of a tree by their path, and the layout of the rest."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value"): leaf
    for path, leaf in leaves
  }
  return arrays, Layout(tuple(arrays), structure)

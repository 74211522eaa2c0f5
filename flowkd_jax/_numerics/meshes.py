"""Functions of a whole batch on meshes of any axis type.

`jax.make_mesh` makes axes of type Explicit: the sharding of an array is a part of its
type there, and a product of two arrays that are sharded alike, as in a matrix of all
pairs, is refused because its type would be ambiguous. On axes of type Auto the compiler
chooses how such a product is sharded.
"""

import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import MappingView
from typing import Any
from typing import TypeVar
from typing import cast

import jax
from jax.sharding import AbstractMesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

Function = TypeVar("Function", bound=Callable[..., Any])


def on_any_mesh(function: Function) -> Function:
  """Decorator: arrays on Explicit axes are evaluated as if the axes were Auto.

  Results are replicated over the mesh; gradients have the sharding of the arrays. Where
  no array has an Explicit axis, the function is called as it is.
  """
  call: Any = function  # Its arguments are rebuilt, which ParamSpec cannot follow.

  @functools.wraps(function)
  def anywhere(*args: Any, **kwargs: Any) -> Any:
    try:
      leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=_is_no_tree)
    except ValueError:  # JAX cannot sort the keys; the function says what is wrong.
      return function(*args, **kwargs)
    mesh = _explicit_mesh(leaves)
    if mesh is None:
      return function(*args, **kwargs)
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}

    def of_arrays(arrays: dict[int, Any]):
      merged = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
      new_args, new_kwargs = jax.tree.unflatten(structure, merged)
      return call(
        *map(_in_order_of, args, new_args),
        **{name: _in_order_of(kwargs[name], new_kwargs[name]) for name in kwargs},
      )

    replicated = NamedSharding(mesh, PartitionSpec())
    automatic = jax.sharding.auto_axes(
      of_arrays, axes=mesh.explicit_axes, out_sharding=replicated
    )
    return automatic(arrays)

  return cast("Function", anywhere)


def _is_no_tree(value: Any) -> bool:
  """Iterables that JAX warns of; functions refuse them in words of their own."""
  return isinstance(value, MappingView | Iterator)


def _in_order_of(old: Any, new: Any) -> Any:
  """The new dict with its keys in the order of the old; JAX sorts keys."""
  return {key: new[key] for key in old} if type(old) is dict else new


def _explicit_mesh(leaves: list[Any]) -> AbstractMesh | None:
  """The mesh with Explicit axes that one of the arrays is on, if any."""
  for leaf in leaves:
    if isinstance(leaf, jax.Array):
      mesh = jax.typeof(leaf).sharding.mesh
      if mesh.explicit_axes:
        return mesh
  return None

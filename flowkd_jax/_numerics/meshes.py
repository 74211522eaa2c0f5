"""Functions of a whole batch on meshes of any axis type.

`jax.make_mesh` makes axes of type Explicit. On such axes the sharding of an array is
part of its type. JAX refuses the product of two arrays with equal shardings, as in a
matrix of all pairs, because the type of the result would be ambiguous. On axes of type
Auto the compiler chooses the sharding of such a product.
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
  """Decorates a function so that Explicit axes of its arrays are treated as Auto.

  Results are replicated over the mesh. Gradients have the shardings of the arrays. If
  no array has an Explicit axis, the function is called unchanged.
  """
  call: Any = function  # The arguments are rebuilt, which a ParamSpec cannot express.

  @functools.wraps(function)
  def anywhere(*args: Any, **kwargs: Any) -> Any:
    try:
      leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=_is_no_tree)
    except ValueError:  # JAX cannot sort these keys. The function has a better message.
      return function(*args, **kwargs)
    mesh = _explicit_mesh(leaves)
    if mesh is None:
      return function(*args, **kwargs)
    # `auto_axes` accepts arrays alone. All other leaves, such as names of kernels,
    # reach the function through the closure.
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
  """True for iterables that are no pytrees. The decorated function rejects them."""
  return isinstance(value, MappingView | Iterator)


def _in_order_of(old: Any, new: Any) -> Any:
  """The new dict with its keys in the order of the old one, because JAX sorts keys."""
  return {key: new[key] for key in old} if type(old) is dict else new


def _explicit_mesh(leaves: list[Any]) -> AbstractMesh | None:
  """Mesh of the first array that is on Explicit axes, or None."""
  for leaf in leaves:
    if isinstance(leaf, jax.Array):
      mesh = jax.typeof(leaf).sharding.mesh
      if mesh.explicit_axes:
        return mesh
  return None

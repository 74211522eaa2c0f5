"""A function mapped over many arrays, once for all arrays of one shape.

A loop in Python would trace and compile the function for each array.
"""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import row_blocks

# Arrays are wide if their widths together are above this multiple of the rows. As many
# as these are stacked though wide, as compiling each would take longer than it saves.
_WIDTHS_OF_ROWS, _MANY = 8, 8


def map_by_shape(
  function: Callable[..., Float[Array, ""]],
  *arguments: Sequence[Float[Array, "batch ..."]],
) -> list[Float[Array, ""]]:
  """Results of a scalar function on each tuple of arrays, in their order.

  The function is traced once for each combination of shapes and dtypes, and for each
  array if they are few and wide. Arrays of equal shapes are evaluated together if the
  matrices of all their pairs of rows are small, else one after the other, which takes
  less memory.

  Args:
    function: Takes one array of each argument, returns a scalar.
    *arguments: Sequences of arrays, all of one length.
  """
  tuples = list(zip(*arguments, strict=True))
  groups: dict[tuple, list[int]] = {}
  for index, arrays in enumerate(tuples):
    shapes = tuple((array.shape, array.dtype) for array in arrays)
    groups.setdefault(shapes, []).append(index)
  results = {}
  for indices in groups.values():
    values = _mapped(function, [tuples[index] for index in indices])
    results |= dict(zip(indices, values, strict=True))
  return [results[index] for index in range(len(tuples))]


def _mapped(function, tuples):
  rows, entries = tuples[0][0].shape[0], sum(array.size for array in tuples[0])
  # Copies of arrays this wide take a fifth of the time of a loss of all pairs.
  wide = entries > _WIDTHS_OF_ROWS * rows**2
  if len(tuples) == 1 or (wide and len(tuples) < _MANY):
    return [function(*arrays) for arrays in tuples]
  stacked = tuple(jnp.stack(arrays) for arrays in zip(*tuples, strict=True))
  if row_blocks.all_at_once(len(tuples), rows):
    return jnp.unstack(jax.vmap(function)(*stacked))
  return jnp.unstack(lax.map(lambda arrays: function(*arrays), stacked))

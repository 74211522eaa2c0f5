"""Map of a function over many arrays, traced once for all arrays of one shape.

A loop in Python would trace and compile the function once per array.
"""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import row_blocks

# Arrays are wide if the sum of their widths is above `_WIDTHS_OF_ROWS` times the number
# of rows. `_MANY` wide arrays are stacked nevertheless, because compiling the function
# for each of them would take longer than the copies.
_WIDTHS_OF_ROWS, _MANY = 8, 8


def map_by_shape(
  function: Callable[..., Float[Array, ""]],
  *arguments: Sequence[Float[Array, "batch ..."]],
) -> list[Float[Array, ""]]:
  """Results of a scalar function on each tuple of arrays, in the order of the tuples.

  The function is traced once for each combination of shapes and dtypes. If few arrays
  are wide, it is traced for each of them. Arrays of equal shapes are evaluated together
  if the matrices of all their pairs of rows are small. Otherwise they are evaluated one
  after the other, which takes less memory.

  Args:
    function: Function of one array from each argument. Returns a scalar.
    *arguments: Sequences of arrays, all of the same length.
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
  # Stacking copies the arrays. For arrays this wide, the copies take a fifth of the
  # time of a loss over all pairs.
  wide = entries > _WIDTHS_OF_ROWS * rows**2
  if len(tuples) == 1 or (wide and len(tuples) < _MANY):
    return [function(*arrays) for arrays in tuples]
  stacked = tuple(jnp.stack(arrays) for arrays in zip(*tuples, strict=True))
  if row_blocks.all_at_once(len(tuples), rows):
    # For small matrices the overhead of a loop would take most of the time.
    return jnp.unstack(jax.vmap(function)(*stacked))
  return jnp.unstack(lax.map(lambda arrays: function(*arrays), stacked))

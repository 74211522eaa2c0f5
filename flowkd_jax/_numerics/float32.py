"""Float32 at least, powers of two as units, and matrix products in full precision."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float


def at_least_float32(array: Float[Array, "..."]) -> Float[Array, "..."]:
  """The array in float32, or in float64 if it is that already.

  The gradient goes back in the array's own dtype. Where that is float16, what is too
  large for it saturates at 65504 instead of becoming infinite.
  """
  # NumPy float64 becomes float32 here, unless JAX is told to keep 64 bits.
  array = jnp.asarray(array)
  if jnp.finfo(array.dtype).bits >= 32:
    return array
  if array.dtype == jnp.float16:
    return _from_float16(array)
  return array.astype(jnp.float32)


@jax.custom_vjp
def _from_float16(array):
  return array.astype(jnp.float32)


def _from_float16_backward(_, cotangent):
  largest = float(jnp.finfo(jnp.float16).max)
  return (jnp.clip(cotangent, -largest, largest).astype(jnp.float16),)


_from_float16.defvjp(
  lambda array: (array.astype(jnp.float32), None), _from_float16_backward
)


def largest_entries(rows: Float[Array, "n ..."]) -> Float[Array, " n"]:
  """Largest magnitude of each row, a constant to the gradient; NaN if one is in it."""
  magnitudes = jnp.abs(lax.stop_gradient(rows))
  return magnitudes.max(tuple(range(1, magnitudes.ndim)))


def power_of_two(size: Float[Array, "..."]) -> Float[Array, "..."]:
  """The power of two next below a size, to divide by without rounding.

  1 where the size is 0, NaN where it is infinite or NaN. Extreme powers are clipped so
  that the reciprocal is a normal number.
  """
  mantissa, _ = jnp.frexp(size)
  bound = 2.0 ** (jnp.finfo(size.dtype).maxexp - 16)
  power = jnp.clip(size / (2 * mantissa), 1 / bound, bound)
  return jnp.where(size == 0, 1, power)


def like(value: Any, rows: Float[Array, "..."]) -> Any:
  """An option in the dtype of `rows`; a Python number as it is."""
  if isinstance(value, int | float):
    return value
  return jnp.asarray(value).astype(rows.dtype)


def matmul(
  left: Float[Array, "n d"], right: Float[Array, "d m"]
) -> Float[Array, "n m"]:
  """Matrix product in full precision.

  The default float32 product is bfloat16 on TPU and TF32 on recent GPUs, in which
  differences of inner products are noise.
  """
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)

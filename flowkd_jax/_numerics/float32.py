"""Float32 arithmetic: conversion, powers of two as units, full matmul precision."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float


def at_least_float32(array: Float[Array, "..."]) -> Float[Array, "..."]:
  """The array in float32. An array in float64 stays float64.

  The gradient has the dtype of the array. In float16 a gradient beyond the range
  saturates at 65504 and does not become infinite.
  """
  # NumPy float64 becomes float32 here, unless the option `jax_enable_x64` is set.
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
  # An infinite gradient becomes NaN in the norm of the gradients or in an optimizer.
  largest = float(jnp.finfo(jnp.float16).max)
  return (jnp.clip(cotangent, -largest, largest).astype(jnp.float16),)


_from_float16.defvjp(
  lambda array: (array.astype(jnp.float32), None), _from_float16_backward
)


def largest_entries(rows: Float[Array, "n ..."]) -> Float[Array, " n"]:
  """Largest magnitude in each row, or NaN for a row with NaN. Has no gradient."""
  magnitudes = jnp.abs(lax.stop_gradient(rows))
  return magnitudes.max(tuple(range(1, magnitudes.ndim)))


def power_of_two(size: Float[Array, "..."]) -> Float[Array, "..."]:
  """The largest power of two that is not above a size.

  Division by it does not round. It is 1 where the size is 0, and NaN where the size is
  infinite or NaN. Extreme powers are clipped so that their reciprocal is a normal
  number.
  """
  # `size = mantissa * 2^exponent` with the mantissa in [1/2, 1), so the quotient is
  # exactly a power of two. `exp2(exponent)` may be rounded.
  mantissa, _ = jnp.frexp(size)
  bound = 2.0 ** (jnp.finfo(size.dtype).maxexp - 16)
  power = jnp.clip(size / (2 * mantissa), 1 / bound, bound)
  return jnp.where(size == 0, 1, power)


def like(value: Any, rows: Float[Array, "..."]) -> Any:
  """An option converted to the dtype of `rows`. Python numbers are not converted."""
  if isinstance(value, int | float):
    return value
  return jnp.asarray(value).astype(rows.dtype)


def matmul(
  left: Float[Array, "n d"], right: Float[Array, "d m"]
) -> Float[Array, "n m"]:
  """Matrix product in full precision.

  By default a float32 product is computed in bfloat16 on TPUs and in TF32 on recent
  GPUs. Differences of inner products would then be noise.
  """
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)

"""Float32 at least, whatever comes in, and matrix products that keep it."""

import jax
import jax.numpy as jnp
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


def matmul(
  left: Float[Array, "n d"], right: Float[Array, "d m"]
) -> Float[Array, "n m"]:
  """Matrix product in full precision.

  The default float32 product is bfloat16 on TPU and TF32 on recent GPUs, in which
  differences of inner products are noise.
  """
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)

"""Float32 at least, whatever comes in, and matrix products that keep it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float


def at_least_float32(array: Float[Array, "..."]) -> Float[Array, "..."]:
  """The array in float32, or in float64 if it is that already."""
  if jnp.finfo(array.dtype).bits >= 32:
    return array
  return array.astype(jnp.float32)


def matmul(
  left: Float[Array, "n d"], right: Float[Array, "d m"]
) -> Float[Array, "n m"]:
  """Matrix product in full precision.

  The default float32 product is bfloat16 on TPU and TF32 on recent GPUs, in which
  differences of inner products are noise.
  """
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)

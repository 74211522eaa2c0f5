"""Check for NaN and infinity in weights, such as those of a checkpoint."""

import collections
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_finite(name: str, arrays: Mapping[str, Any]) -> None:
  """Raises ValueError if an array of weights holds NaN or infinity.

  Integers, random keys and arrays without values, such as those of `jax.eval_shape`,
  pass. An array of nothing but zeros and minus infinities passes too, because it is an
  additive attention mask. Waits for the device once, for all arrays together.

  Args:
    name: Name of the argument that held the arrays, for the message.
    arrays: Arrays by name.

  Raises:
    ValueError: If an array holds NaN or infinity. The message names up to three arrays.
  """
  flags = {
    key: _is_finite(array) for key, array in arrays.items() if _has_values(array)
  }
  wrong = [key for key, finite in jax.device_get(flags).items() if not finite]
  if wrong:
    others = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise ValueError(
      f"{name}: expected finite weights, got NaN or infinity in "
      f"{', '.join(wrong[:3])}{others}; training diverged or the file is damaged: use "
      "weights of an earlier step"
    )


def by_path(tree: Any) -> dict[str, Any]:
  """Leaves of a pytree by their paths, such as "params/conv_1/kernel".

  If two paths are equal as text, because a key contains a slash, both are written with
  brackets: "['a/b']" and "['a']['b']".
  """
  keystr = jax.tree_util.keystr
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  names = [keystr(path, simple=True, separator="/") for path, _ in leaves]
  counts = collections.Counter(names)
  return {
    name if counts[name] == 1 else keystr(path): leaf
    for name, (path, leaf) in zip(names, leaves, strict=True)
  }


def _has_values(array):
  if isinstance(array, Tracer) or not isinstance(array, np.ndarray | jax.Array):
    return False
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    # Other processes hold parts of this array. A NaN there shows as a NaN in the loss.
    return False
  return jnp.issubdtype(array.dtype, jnp.inexact)


def _is_finite(array):
  xp = np if isinstance(array, np.ndarray) and array.dtype.kind in "fc" else jnp
  finite = xp.isfinite(array).all()
  is_mask = ((array == 0) | (array == -xp.inf)).all()
  return finite | is_mask

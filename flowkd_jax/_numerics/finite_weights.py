"""Weights that come from outside, checked for NaN and infinity."""

import collections
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_finite(name: str, arrays: Mapping[str, Any]) -> None:
  """Raises ValueError if an array of weights holds NaN or infinity.

  Integers, keys and arrays without values, such as those of `jax.eval_shape`, pass, and
  so does an array of zeros and minus infinities alone: an additive mask of attention.
  Waits for the device, once.

  Args:
    name: Name of the argument that the arrays came in.
    arrays: Arrays by name.
  """
  flags = {
    key: _is_finite(array) for key, array in arrays.items() if _has_values(array)
  }
  wrong = [key for key, finite in jax.device_get(flags).items() if not finite]
  if wrong:
    others = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise ValueError(
      f"{name}: expected finite weights, got NaN or infinity in "
      f"{', '.join(wrong[:3])}{others}; the network diverged or its file is damaged, "
      "take the weights of an earlier step"
    )


def by_path(tree: Any) -> dict[str, Any]:
  """Leaves of a tree by their path, such as "params/conv_1/kernel".

  Where two paths read alike, because a key holds a slash, both are written with
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
    return False  # in other processes, which check their part by the loss
  return jnp.issubdtype(array.dtype, jnp.inexact)


def _is_finite(array):
  xp = np if isinstance(array, np.ndarray) and array.dtype.kind in "fc" else jnp
  finite = xp.isfinite(array).all()
  is_mask = ((array == 0) | (array == -xp.inf)).all()
  return finite | is_mask

"""Checks that metrics and states are finite."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


class NonFiniteError(FloatingPointError):
  """Error: metrics or parameters are not finite. Such a state is never saved."""


def non_finite_metrics(metrics: Mapping[str, Any]) -> list[str]:
  """Names of the metrics that are NaN or infinite."""
  return [name for name, value in metrics.items() if not math.isfinite(value)]


def non_finite_arrays(state: PyTree) -> list[str]:
  """Paths of the arrays that hold NaN or infinities, the optimizer's left out.

  An optimizer may start from an infinity, such as the best loss so far. Waits for the
  devices.

  Args:
    state: State of a method.
  """
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree.leaves_with_path(state)
    if not any(getattr(part, "name", None) == "opt_state" for part in path)
    and jnp.issubdtype(leaf.dtype, jnp.inexact)
  }
  if not leaves:
    return []
  finite = jax.device_get(_finite(list(leaves.values())))
  return [name for name, good in zip(leaves, finite, strict=True) if not good]


@jax.jit
def _finite(leaves):
  return [jnp.isfinite(leaf).all() for leaf in leaves]

"""Checks that metrics and states are finite."""

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class NonFiniteError(FloatingPointError):
  """Error for metrics or parameters that are not finite; such states are not saved."""


def first_non_finite(metrics: Mapping[str, Sequence[float]]) -> tuple[int, list[str]]:
  """First step with a NaN or infinite metric, and the names of these metrics.

  Args:
    metrics: Values of each metric, one for each step.

  Returns:
    Position of the step and the names. If all values are finite: the number of steps
    and no names.
  """
  steps = max(map(len, metrics.values()), default=0)
  if all(all(map(math.isfinite, values)) for values in metrics.values()):
    return steps, []
  bad = {
    name: [not math.isfinite(value) for value in values]
    for name, values in metrics.items()
  }
  first = min(flags.index(True) for flags in bad.values() if any(flags))
  return first, [name for name, flags in bad.items() if flags[first]]


def describe(bad: Sequence[str], when: str, kept: str | None) -> str:
  """Error message for metrics or arrays that are not finite.

  Args:
    bad: Names of the metrics or arrays.
    when: Step at which they were found, in words.
    kept: Last good checkpoint, in words; None if there is none.
  """
  taps = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
  where = f" at tap {', '.join(taps)}" if taps else ""
  saved = "no checkpoint was saved before"
  if kept is not None:
    saved = f"last good checkpoint: {kept}"
  return (
    f"{', '.join(bad)} not finite {when}{where}; {saved}. Lower the learning rate or "
    "the weights, or check the input of that step"
  )


def non_finite_arrays(state: PyTree) -> list[str]:
  """Paths of the arrays with NaN or infinities, except the optimizer's arrays.

  An optimizer may hold an infinity legitimately, such as the initial best loss. The
  function waits for the devices.

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
  finite = _are_finite(list(leaves.values()))
  return [name for name, good in zip(leaves, finite, strict=True) if not good]


def _are_finite(leaves: Sequence[jax.Array]) -> Sequence[Any]:
  """Returns whether each array is finite; waits for the devices."""
  if all(leaf.is_fully_addressable for leaf in leaves) and _is_on_cpu(leaves[0]):
    # On CPU, NumPy reads the array without a copy, and nothing has to be compiled.
    return [np.isfinite(np.asarray(leaf)).all() for leaf in leaves]
  return jax.device_get(_finite(leaves))


def _is_on_cpu(array: jax.Array) -> bool:
  return all(device.platform == "cpu" for device in array.devices())


@jax.jit
def _finite(leaves):
  return [jnp.isfinite(leaf).all() for leaf in leaves]

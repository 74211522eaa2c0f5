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
  """Error: metrics or parameters are not finite. Such a state is never saved."""


def first_non_finite(metrics: Mapping[str, Sequence[float]]) -> tuple[int, list[str]]:
  """First step with a metric that is NaN or infinite, and the names of its bad metrics.

  Args:
    metrics: The values of each metric, a number for each step.

  Returns:
    The position of the step and the names; the number of steps and no names if all are
    finite.
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
  """Sentence on metrics or arrays that are not finite.

  Args:
    bad: Their names.
    when: The step.
    kept: The last good checkpoint, None if there is none.
  """
  taps = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
  where = f" at tap {', '.join(taps)}" if taps else ""
  saved = "no checkpoint was saved before"
  if kept is not None:
    saved = f"last good checkpoint: {kept}"
  return (
    f"{', '.join(bad)} not finite {when}{where}; {saved}. Lower the learning rate or "
    "the weights, or look at the input of that step"
  )


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
  finite = _are_finite(list(leaves.values()))
  return [name for name, good in zip(leaves, finite, strict=True) if not good]


def _are_finite(leaves: Sequence[jax.Array]) -> Sequence[Any]:
  """Returns whether each array is finite; waits for the devices."""
  if all(leaf.is_fully_addressable for leaf in leaves) and _is_on_cpu(leaves[0]):
    # NumPy reads the memory of such a device and has nothing to compile.
    return [np.isfinite(np.asarray(leaf)).all() for leaf in leaves]
  return jax.device_get(_finite(leaves))


def _is_on_cpu(array: jax.Array) -> bool:
  return all(device.platform == "cpu" for device in array.devices())


@jax.jit
def _finite(leaves):
  return [jnp.isfinite(leaf).all() for leaf in leaves]

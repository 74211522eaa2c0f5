"""Communication between processes that train together, one on each host.

All processes run the same program and take the same steps, each on its share of every
batch. Only the first process writes files. With a single process, these functions do
nothing.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import flowkd_jax

_COMPARED_VERSIONS = ("jax", "jaxlib")


def is_first_process() -> bool:
  """Returns whether this is the process that writes files and prints."""
  return jax.process_index() == 0


def wait_for_processes(what: str) -> None:
  """Wait until all processes call this function; `what` must be equal in all."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def any_process(*flags: bool) -> list[bool]:
  """Logical OR of each flag over all processes. Collective: all must call it."""
  return [bool(largest) for largest in largest_of_processes(*map(int, flags))]


def largest_of_processes(*numbers: int) -> list[int]:
  """Maximum of each number over all processes. Collective: all must call it."""
  if jax.process_count() == 1:
    return [*numbers]
  said = np.asarray(multihost_utils.process_allgather(np.array(numbers, np.int32)))
  return [int(column.max()) for column in said.T]


def of_all_processes(value: Any) -> list[Any]:
  """Gather the values of all processes, in order. Collective: all must call it.

  Args:
    value: Value that JSON can hold.
  """
  text = json.dumps(value).encode()
  if jax.process_count() == 1:
    return [json.loads(text)]
  (size,) = largest_of_processes(len(text))
  padded = np.frombuffer(text.ljust(size), np.uint8)
  gathered = np.asarray(multihost_utils.process_allgather(padded))
  return [json.loads(row.tobytes()) for row in gathered]


def check_same_settings(settings: Mapping[str, Any], *, prefix: str = "") -> None:
  """Check that all processes have the same settings and versions.

  Collective: all processes must call it, and all raise an error.

  Args:
    settings: Values that JSON can hold, by name.
    prefix: Prefix of the names in the message, such as "--".

  Raises:
    ValueError: If settings differ. The message gives the values of two processes.
  """
  mine = {f"{prefix}{name}": value for name, value in settings.items()}
  # Read from the package, because a copy that was not installed has no metadata.
  mine["version of flowkd_jax"] = flowkd_jax.__version__
  mine |= {
    f"version of {name}": importlib.metadata.version(name)
    for name in _COMPARED_VERSIONS
  }
  first, *others = of_all_processes(mine)
  for number, other in enumerate(others, start=1):
    different = [
      f"{name}: {first.get(name)!r} in process 0, {other.get(name)!r} in process "
      f"{number}"
      for name in {**first, **other}
      if first.get(name) != other.get(name)
    ]
    if different:
      raise ValueError(
        "expected the same settings in all processes that train together, got "
        f"{'; '.join(different)}. Start all with the same command"
      )

"""Several processes, one on each host, that train together.

All run the same program and take the same steps, each on its share of every batch. What
is written is written by the first of them. With one process nothing here does anything.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first_process() -> bool:
  """Whether this is the process that writes and speaks."""
  return jax.process_index() == 0


def wait_for_processes(what: str) -> None:
  """Returns when all processes have come here; `what` is the same in all."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def any_process(*flags: bool) -> list[bool]:
  """Whether any process says so, for each flag; all processes have to ask."""
  if jax.process_count() == 1:
    return list(flags)
  said = np.asarray(multihost_utils.process_allgather(np.array(flags)))
  return [bool(column.any()) for column in said.T]

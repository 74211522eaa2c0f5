"""Checks that a method fits the way in which its step is mapped over devices."""

import contextlib
from typing import Any

import jax

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import parallel


def check_method_fits(
  method: methods.Method,
  parallelism: parallel.Mode,
  num_devices: int,
  *,
  shard: parallel.ShardRule | None = None,
) -> None:
  """Check that a method was made for a mapping of its step.

  Args:
    method: The method.
    parallelism: Mapping of the steps.
    num_devices: Number of devices of all processes.
    shard: Rule that shards arrays, or None.

  Raises:
    ValueError: If the method uses another axis, or there is a rule in mode "pmap".
  """
  check_parallelism(parallelism, shard)
  expected = parallel.axis_of(parallelism)
  if method.axis_name == expected:
    return
  if method.axis_name is None and num_devices == 1:
    return
  other = "jit" if method.axis_name is None else "pmap"
  hint = ""
  if method.axis_name in (None, parallel.AXIS):
    hint = f", or choose parallelism={other!r}"
  raise ValueError(
    f"method: expected one made with axis_name={expected!r}, as "
    f"parallelism={parallelism!r} on {num_devices} "
    f"device{'s' if num_devices > 1 else ''} needs it, got "
    f"axis_name={method.axis_name!r}; make the method and its networks with "
    f"axis_name={expected!r}{hint}"
  )


def check_parallelism(
  parallelism: parallel.Mode, shard: parallel.ShardRule | None
) -> None:
  """Raise ValueError for a mode that is unknown, or not possible in this process."""
  parallel.check_mode(parallelism, shard, name="parallelism")
  if parallelism == "jit" and jax.process_count() > 1:
    raise ValueError(
      "parallelism: expected 'pmap' with several processes, got 'jit', which maps over "
      "the devices of one process; use 'pmap', or start one process"
    )


def statistics_of_all_rows(
  parallelism: parallel.Mode, num_devices: int
) -> contextlib.AbstractContextManager[Any]:
  """Context that refuses BatchNorm layers without statistics of the whole batch."""
  if parallelism == "pmap" and num_devices == 1:
    return contextlib.nullcontext()
  return capture.statistics_over(parallel.axis_of(parallelism))

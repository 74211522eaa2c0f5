"""A case of the benchmark of growth, and its measurement at one size."""

import dataclasses
import gc
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Case:
  """A piece of work that has a size.

  Attributes:
    make: `make(size)` prepares the inputs and returns the work as a function without
      arguments. Preparation is not measured. What the work returns is waited for.
    sizes: Sizes to measure, in rising order.
    grows: The quantity that `size` counts, such as "rows and classes".
    tiny: Size for tests, which must take little time.
  """

  make: Callable[[int], Callable[[], Any]]
  sizes: tuple[int, ...]
  grows: str
  tiny: int = 4


def measure(case: Case, size: int) -> dict[str, float]:
  """Seconds of the first and the second call, processor time and memory of both.

  The first call includes tracing and compilation. Processor time is that of all threads
  of the process, which other work on the machine hardly changes. Memory is the peak
  from the start of the first call, in MiB: of the device if it reports its memory, else
  of the process.
  """
  work = case.make(size)
  gc.collect()
  start = _start_of_memory()
  began = time.process_time()
  first, again = _seconds(work), _seconds(work)
  return {
    "first": first,
    "again": again,
    "processor": time.process_time() - began,
    "mib": (_peak_memory() - start) / 2**20,
  }


def _seconds(work: Callable[[], Any]) -> float:
  began = time.perf_counter()
  jax.block_until_ready(work())
  return time.perf_counter() - began


def _start_of_memory() -> float:
  statistics = jax.local_devices()[0].memory_stats()
  if statistics:
    return statistics["bytes_in_use"]
  try:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
      file.write("5")  # Linux: the peak is counted from now on
  except OSError:
    pass  # The peak includes imports and preparation.
  return _peak_memory()


def _peak_memory() -> float:
  statistics = jax.local_devices()[0].memory_stats()
  if statistics:
    return statistics["peak_bytes_in_use"]
  try:
    with open("/proc/self/status", encoding="ascii") as file:
      peaks = [line.split()[1] for line in file if line.startswith("VmHWM")]
    return 1024.0 * int(peaks[0])
  except (OSError, IndexError):
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

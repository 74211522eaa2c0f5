"""Steps in flight: how many the host dispatches before it waits for the devices.

Dispatching is asynchronous. A host that runs far ahead of its devices saves late, stops
late and keeps many batches in memory; one that waits for every step leaves the devices
idle. Both bounds here are times, turned into steps by the measured time of a step.
"""

import collections
import dataclasses
import time
from collections.abc import Mapping
from collections.abc import Sequence

import jax
import numpy as np

from flowkd_jax import methods

_SECONDS = 0.5  # of a call, and of the steps that the host runs ahead

HostMetrics = Mapping[str, list[float]]


class Pace:
  """Number of steps that take about half a second, from measured times.

  It starts at 1 and at most doubles with each measurement. The number decides when the
  processes of a run exchange something, so it has to be the same in all of them:
  `agree` sets it, from the slowest process.
  """

  def __init__(self, most: int):
    """`most` is the largest number of steps."""
    self.steps = 1
    self._most = most
    self._agreed = 0
    self._seconds: collections.deque[float] = collections.deque(maxlen=2)

  def measured(self, steps: int, seconds: float) -> None:
    """Records the time that steps took."""
    self._seconds.append(seconds / steps)

  @property
  def microseconds(self) -> int:
    """Time of a step, 0 if there is no measurement.

    It is the shorter of the last two, so that one pause of the machine says nothing.
    """
    return min(round(1e6 * min(self._seconds, default=0.0)), 2**31 - 1)

  def agree(self, microseconds: int) -> None:
    """Adapts the number of steps to the time of a step; 0 keeps it."""
    self._agreed = microseconds
    if microseconds:
      fitting = int(1e6 * _SECONDS / microseconds)
      self.steps = max(1, min(fitting, 2 * self.steps, self._most))

  def next_call(self, left: int, block: int, most: int) -> tuple[int, bool]:
    """Number of steps of the next call, and whether it takes blocks of steps.

    It depends only on what several processes have agreed on.

    Args:
      left: Steps that are left of the epoch.
      block: Steps of a block.
      most: Maximum number of steps.
    """
    steps = min(most, max(self.steps, block), left) // block * block
    slow = block > 1 and self.is_slow(block)
    return (steps, True) if most > 1 and steps and not slow else (1, False)

  def is_slow(self, steps: int) -> bool:
    """Returns whether so many steps would take more than twice the target time."""
    return self._agreed * steps > 2e6 * _SECONDS


@dataclasses.dataclass(frozen=True)
class _Call:
  """Steps dispatched in one call, `first` to `first + steps - 1`."""

  first: int
  steps: int
  metrics: methods.Metrics
  began: float


class InFlight:
  """Dispatched calls whose metrics have not been read, oldest first."""

  def __init__(self, pace: Pace, check_every: int):
    """The host runs ahead by the steps of the pace, at most `check_every`."""
    self._pace, self._check_every = pace, check_every
    self._calls: collections.deque[_Call] = collections.deque()
    self._steps = 0
    self._ready_at = 0.0

  def add(self, first: int, steps: int, metrics: methods.Metrics, began: float) -> None:
    """Adds a call.

    Args:
      first: Number of its first step.
      steps: Number of its steps.
      metrics: Metrics on the devices, a number each, or an array of `steps` or more.
      began: Time just before the dispatch; after it, if it compiled a program.
    """
    self._calls.append(_Call(first, steps, metrics, began))
    self._steps += steps

  def overdue(self) -> tuple[int, HostMetrics] | None:
    """Reads the oldest calls if the host is too far ahead; waits for the devices.

    The newest call stays, so that devices are busy while the host prepares the next.

    Returns:
      The number of the first step that was read, and the metrics, a number for each
      step; None if there is nothing to be read.
    """
    allowed = min(self._pace.steps, self._check_every)
    if self._steps <= allowed:
      return None
    # Half of them at once: reading call by call takes longer.
    read, left = [], self._steps
    while len(self._calls) > 1 and left > allowed // 2:
      read.append(self._calls.popleft())
      left -= read[-1].steps
    return self._read(read)

  def all(self) -> tuple[int, HostMetrics] | None:
    """Reads all calls; waits for the devices. Returns as `overdue` does."""
    read = [*self._calls]
    self._calls.clear()
    return self._read(read)

  def _read(self, calls: list[_Call]) -> tuple[int, HostMetrics] | None:
    if not calls:
      return None
    metrics = read_metrics([(call.metrics, call.steps) for call in calls])
    now = time.monotonic()
    steps = sum(call.steps for call in calls)
    self._steps -= steps
    self._pace.measured(steps, now - max(calls[0].began, self._ready_at))
    self._ready_at = now
    return calls[0].first, metrics


def read_metrics(calls: Sequence[tuple[methods.Metrics, int]]) -> HostMetrics:
  """Metrics of calls one after another, a number for each step; waits for the devices.

  Args:
    calls: The metrics of each call, as in `InFlight.add`, and the number of its steps.
  """
  read: dict[str, list[float]] = {}
  on_host = jax.device_get([metrics for metrics, _ in calls])
  for metrics, (_, steps) in zip(on_host, calls, strict=True):
    for name, values in metrics.items():
      read.setdefault(name, []).extend(np.reshape(values, -1)[:steps].tolist())
  return read

"""Pace of dispatching: the number of steps that the host runs ahead of the devices.

Dispatching is asynchronous. If the host runs far ahead of the devices, it saves late,
stops late and keeps many batches in memory. If it waits for every step, the devices are
idle. Both limits are therefore set as a time, which is converted to steps by the
measured time of a step.
"""

import collections
import dataclasses
import time
from collections.abc import Mapping
from collections.abc import Sequence

import jax
import numpy as np

from flowkd_jax import methods

_SECONDS = 0.5  # target for a call, and for the steps that the host runs ahead

HostMetrics = Mapping[str, list[float]]


class Pace:
  """Number of steps that take about half a second, from measured times.

  The number starts at 1 and at most doubles with each measurement. It decides when the
  processes of a run communicate, so it must be equal in all of them: `agree` sets it
  from the slowest process.
  """

  def __init__(self, most: int):
    """Start with one step; `most` is the maximum."""
    self.steps = 1
    self._most = most
    self._agreed = 0
    self._seconds: collections.deque[float] = collections.deque(maxlen=2)

  def measured(self, steps: int, seconds: float) -> None:
    """Record the time in seconds that a number of steps took."""
    self._seconds.append(seconds / steps)

  @property
  def microseconds(self) -> int:
    """Time of a step in microseconds; 0 without a measurement.

    The shorter of the last two measurements, so that a single pause of the machine has
    no effect.
    """
    return min(round(1e6 * min(self._seconds, default=0.0)), 2**31 - 1)

  def agree(self, microseconds: int) -> None:
    """Set the number of steps from the time of a step; 0 keeps the number."""
    self._agreed = microseconds
    if microseconds:
      fitting = int(1e6 * _SECONDS / microseconds)
      self.steps = max(1, min(fitting, 2 * self.steps, self._most))

  def next_call(self, left: int, block: int, most: int) -> tuple[int, bool]:
    """Number of steps of the next call, and whether it takes blocks of steps.

    The result depends only on values that all processes have agreed on.

    Args:
      left: Number of remaining steps of the epoch.
      block: Number of steps in a block.
      most: Maximum number of steps.
    """
    steps = min(most, max(self.steps, block), left) // block * block
    slow = block > 1 and self.is_slow(block)
    return (steps, True) if most > 1 and steps and not slow else (1, False)

  def is_slow(self, steps: int) -> bool:
    """Returns whether a number of steps would take over twice the target time."""
    return self._agreed * steps > 2e6 * _SECONDS


@dataclasses.dataclass(frozen=True)
class _Call:
  """Dispatched call of the steps `first` to `first + steps - 1`."""

  first: int
  steps: int
  metrics: methods.Metrics
  began: float


class InFlight:
  """Queue of dispatched calls whose metrics have not been read, oldest first."""

  def __init__(self, pace: Pace, check_every: int):
    """Limit the steps that the host runs ahead to the pace and `check_every`."""
    self._pace, self._check_every = pace, check_every
    self._calls: collections.deque[_Call] = collections.deque()
    self._steps = 0
    self._ready_at = 0.0

  def add(self, first: int, steps: int, metrics: methods.Metrics, began: float) -> None:
    """Add a call.

    Args:
      first: Number of the call's first step.
      steps: Number of steps of the call.
      metrics: Metrics on the devices, each a number or an array of at least `steps`.
      began: Time just before the dispatch; if the call compiled a program, the time
        after it.
    """
    self._calls.append(_Call(first, steps, metrics, began))
    self._steps += steps

  def overdue(self) -> tuple[int, HostMetrics] | None:
    """Read the oldest calls if the host is too far ahead; this waits for the devices.

    The newest call stays in flight, so that devices are busy while the host prepares
    the next one.

    Returns:
      The number of the first step that was read, and its metrics, one value for each
      step; None if nothing is read.
    """
    allowed = min(self._pace.steps, self._check_every)
    if self._steps <= allowed:
      return None
    # Reads half of the calls at once, as each read has a fixed cost.
    read, left = [], self._steps
    while len(self._calls) > 1 and left > allowed // 2:
      read.append(self._calls.popleft())
      left -= read[-1].steps
    return self._read(read)

  def all(self) -> tuple[int, HostMetrics] | None:
    """Read all calls; this waits for the devices. The result is that of `overdue`."""
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
  """Read metrics of several calls, one value for each step; waits for the devices.

  Args:
    calls: Metrics of each call, as in `InFlight.add`, with its number of steps.
  """
  read: dict[str, list[float]] = {}
  on_host = jax.device_get([metrics for metrics, _ in calls])
  for metrics, (_, steps) in zip(on_host, calls, strict=True):
    for name, values in metrics.items():
      read.setdefault(name, []).extend(np.reshape(values, -1)[:steps].tolist())
  return read

"""Time of a run by part: steps, compiling, measuring, waiting for data, other."""

import collections
import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jax
import jax.monitoring

STEPS, COMPILING, MEASURING, DATA, OTHER = (
  "steps",
  "compiling",
  "measuring",
  "waiting for data",
  "other",
)
NAMES: tuple[str, ...] = (STEPS, COMPILING, MEASURING, DATA, OTHER)

_COMPILING = "/jax/core/compile/"  # prefix of JAX's events about compilation


class Times:
  """Record of the seconds spent on each part of a run; each second counts once.

  Time outside `spent`, such as for checkpoints and files, counts as `OTHER`. Tracing
  and compiling count as `COMPILING` wherever they happen, but only in this thread. As
  devices run behind the host, waiting for the results of steps counts as `STEPS`, even
  if the devices are still busy with a measurement.
  """

  def __init__(self, earlier: Mapping[str, float] | None = None):
    """Start the clock.

    Args:
      earlier: Seconds of earlier calls of the same run, which are added.
    """
    self._seconds: dict[str, float] = dict.fromkeys(NAMES, 0.0)
    self.add(earlier or {})
    self._name = OTHER
    self._since = time.monotonic()
    _listen()
    self._compiled = _compiled.seconds

  def add(self, earlier: Mapping[str, float]) -> None:
    """Add seconds of earlier calls; unknown names count as `OTHER`."""
    for name, seconds in earlier.items():
      self._seconds[name if name in self._seconds else OTHER] += seconds

  @contextlib.contextmanager
  def spent(self, name: str) -> Iterator[None]:
    """Context whose time counts as spent on `name`, one of `NAMES`."""
    outer = self._switch(name)
    try:
      yield
    finally:
      self._switch(outer)

  def seconds(self) -> dict[str, float]:
    """Seconds spent so far, by name."""
    self._switch(self._name)
    return dict(self._seconds)

  def _switch(self, name: str) -> str:
    now = time.monotonic()
    compiling = min(_compiled.seconds - self._compiled, now - self._since)
    self._compiled = _compiled.seconds
    self._seconds[COMPILING] += compiling
    self._seconds[self._name] += now - self._since - compiling
    self._since = now
    outer, self._name = self._name, name
    return outer


class _Compiled(threading.local):
  """Record of the seconds of tracing and compiling in this thread."""

  def __init__(self):
    self.seconds = 0.0
    self._spans: collections.deque[tuple[float, float]] = collections.deque(maxlen=256)

  def add(self, seconds: float) -> None:
    """Add an event that has just ended; events inside it count only once."""
    begin = time.monotonic() - seconds
    whole = seconds
    while self._spans and self._spans[-1][0] >= begin:
      seconds -= self._spans.pop()[1]
    self._spans.append((begin, whole))
    self.seconds += max(seconds, 0.0)


_compiled = _Compiled()


@functools.cache  # Registered only once: JAX never removes listeners.
def _listen() -> None:
  def on_event(event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith(_COMPILING):
      _compiled.add(duration_secs)

  jax.monitoring.register_event_duration_secs_listener(on_event)

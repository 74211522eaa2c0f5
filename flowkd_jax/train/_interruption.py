"""Stopping on request: SIGTERM and Ctrl-C let the step finish, then save."""

import contextlib
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterator

# Stands for what `should_stop` of a user returned, if that is no signal.
_OTHER = 1000


class Interrupted(Exception):  # noqa: N818 (no error: the run can go on later)
  """The run was asked to stop, has saved its state, and can be resumed."""

  def __init__(self, signal_name: str, step: int):
    """`signal_name` is what stopped it, `step` the updates that are saved."""
    super().__init__(f"stopped by {signal_name} after step {step}; state saved")
    self.signal_name = signal_name
    self.step = step


def signal_number(name: str | None) -> int:
  """Number of a signal; 0 for None, so that processes can compare what came."""
  if name is None:
    return 0
  try:
    return int(signal.Signals[name])
  except KeyError:
    return _OTHER


def signal_name(number: int) -> str:
  """Name of the signal with that number."""
  return "another reason" if number == _OTHER else signal.Signals(number).name


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], str | None]]:
  """While inside, SIGTERM and SIGINT only set a flag; a second one acts at once.

  Yields:
    A function that returns the name of the signal that came, or None.
  """
  received: list[str] = []
  if threading.current_thread() is not threading.main_thread():
    yield lambda: None  # Signals can only be handled in the main thread.
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  previous = {number: signal.getsignal(number) for number in numbers}

  def handle(number, frame):
    del frame
    received.append(signal.Signals(number).name)
    signal.signal(number, previous[number])

  for number in numbers:
    signal.signal(number, handle)
  try:
    yield lambda: received[0] if received else None
  finally:
    for number in numbers:
      signal.signal(number, previous[number])

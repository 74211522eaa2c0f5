"""Interruption of a run: after SIGTERM or Ctrl-C, finish the step and save."""

import contextlib
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterator

# Number that stands for a reason of a user's `should_stop` that is not a signal.
_OTHER = 1000


class Interrupted(Exception):  # noqa: N818 (no error: the run can go on later)
  """Exception for a run that was asked to stop, saved its state and can be resumed."""

  def __init__(self, signal_name: str, step: int):
    """Make the exception from the name of the signal and the updates saved."""
    super().__init__(f"stopped by {signal_name} after step {step}; state saved")
    self.signal_name = signal_name
    self.step = step


def signal_number(name: str | None) -> int:
  """Number of a signal, which processes can compare; 0 for None."""
  if name is None:
    return 0
  try:
    return int(signal.Signals[name])
  except KeyError:
    return _OTHER


def signal_name(number: int) -> str:
  """Name of a signal from its number."""
  return "another reason" if number == _OTHER else signal.Signals(number).name


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], str | None]]:
  """Context in which the first SIGTERM or SIGINT only sets a flag.

  A second signal has its usual effect.

  Yields:
    A function that returns the name of the received signal, or None.
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

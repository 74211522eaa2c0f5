"""Display of a training run: a bar on a terminal, elsewhere a line for each epoch.

The line of an epoch has what was measured after it, which devices compute while the
next steps are dispatched already. It is printed once these numbers have arrived, so
that nothing waits for them.
"""

import collections
import contextlib
import math
import re
import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from flowkd_jax import data
from flowkd_jax import teacher_cache
from flowkd_jax.train import _progress
from flowkd_jax.train import _times

_SHOW_SECONDS = 0.1  # between two movements of the bar
_RECENT = 8  # epochs whose time tells how long the others will take

_ACCURACY = re.compile(r"(?:(.+)/)?(test|validation)_accuracy")
_FLOW = re.compile(r"(?:(.+)/)?qmi/cosine/(.+)")


class RunDisplay:
  """Shows how far a run has come, on a `Progress`; without one it shows nothing."""

  def __init__(
    self,
    progress: _progress.Progress | None,
    title: str,
    batches: data.Batches,
    epochs: int,
    times: _times.Times,
  ):
    """Prints nothing yet.

    Args:
      progress: Place of the bar and of the lines.
      title: Name of the run.
      batches: The training batches.
      epochs: Passes over the data in all.
      times: Time of the run by part. Compiling happens in the first epoch only, so that
        speed and time left are computed without it.
    """
    # Of several processes only the first reads measurements, to print them.
    silent = progress is None or progress.console.quiet
    self._progress = None if silent else progress
    self._title, self._epochs = title, epochs
    self._per_epoch = batches.steps_per_epoch
    self._images, self._epoch_name = _images_and_name(batches)
    self._length = length_in_words(batches, epochs)
    self._times = times
    # Step and working time at the ends of epochs, the oldest first.
    self._marks: collections.deque[tuple[int, float]] = collections.deque(
      maxlen=_RECENT
    )
    self._first_step = 0
    # Seconds of compiling before the steps of the epoch, and after them.
    self._compiled = self._compiled_with_steps = 0.0
    self._latest: dict[str, float] = {}
    self._waiting: collections.deque[tuple[list[str], dict[str, ArrayLike], str]] = (
      collections.deque()
    )
    self._shown_at = self._said_at = time.monotonic()

  @contextlib.contextmanager
  def shown(self, step: int) -> Iterator[None]:
    """Shows the run within the context.

    Args:
      step: Steps that were done before, if the run is resumed.
    """
    if self._progress is None:
      yield
      return
    total = self._epochs * self._per_epoch
    self._progress.start(self._title, total, step, heading=self._heading(step))
    self._compiled = self._compiled_with_steps = self._compiling()
    self._first_step = step
    self._marks.append((step, self._working_time()))
    try:
      yield
      self._say_waiting(only_ready=False)
      if self._progress.is_live:
        self._progress.update(total)
    finally:
      self._say_waiting(only_ready=True)
      self._progress.stop()

  def step(
    self, step: int, latest: Mapping[str, float] | None = None, *, now: bool = False
  ) -> None:
    """Moves the bar; prints the lines whose numbers have arrived.

    Args:
      step: Steps done.
      latest: Metrics of the last step.
      now: True when the steps of an epoch are done: it is shown even if something was
        shown just before.
    """
    if latest is not None:
      wanted = ("loss", "accuracy")
      self._latest = {name: latest[name] for name in wanted if name in latest}
    if self._progress is None:
      return
    if not now and time.monotonic() - self._shown_at < _SHOW_SECONDS:
      return
    self._shown_at = time.monotonic()
    self._compiled_with_steps = self._compiling()
    if self._progress.is_live:
      self._progress.update(step, self._latest)
      return
    self._say_waiting(only_ready=True)
    if self._shown_at - self._said_at >= self._progress.quiet_seconds:
      self._say(self._within_epoch(step))

  def epoch(
    self, epoch: int, means: Mapping[str, float], measured: Mapping[str, ArrayLike]
  ) -> None:
    """Has the line of an epoch printed once what was measured has arrived.

    Args:
      epoch: Number of the epoch, from 0; nothing is printed for -1.
      means: Metrics of its steps, and its "seconds".
      measured: Measurements after the epoch, numbers on the host or on a device.
    """
    if self._progress is None or self._progress.is_live:
      return
    seconds = means.get("seconds", 0.0) - self._compiled_with_steps + self._compiled
    self._compiled = self._compiled_with_steps = self._compiling()
    if epoch < 0:
      return
    step = (epoch + 1) * self._per_epoch
    self._marks.append((step, self._working_time()))
    if len(self._marks) == 3 and self._marks[0][0] == self._first_step:
      self._marks.popleft()  # The first epoch also places data and loads programs.
    parts = [f"{self._epoch_name} {epoch + 1} of {self._epochs}"]
    if "loss" in means:
      parts.append(f"loss {means['loss']:#.4g}")
    speed = f"{self._images / seconds:,.0f} images/s" if seconds > 0 else ""
    told = {name: measured[name] for name in _told(measured)}
    ending = ", ".join(filter(None, (speed, self._time_left(step))))
    self._waiting.append((parts, told, ending))
    self._say_waiting(only_ready=True)

  def _say_waiting(self, *, only_ready: bool) -> None:
    while self._waiting:
      parts, told, ending = self._waiting[0]
      if only_ready and not all(map(_is_ready, told.values())):
        return
      self._waiting.popleft()
      values = [_in_words(*item) for item in jax.device_get(told).items()]
      self._say(", ".join(filter(None, (*parts, *values, ending))))

  def _say(self, text: str) -> None:
    if self._progress is not None:
      self._progress.say(f"{self._title}: {text}")
    self._said_at = time.monotonic()

  def _heading(self, step: int) -> str:
    """The line that begins the run."""
    number = self._length
    if step == 0:
      return f"{self._title}: {number}"
    if step >= self._epochs * self._per_epoch:
      return f"{self._title}: {number}, all trained before"
    return (
      f"{self._title}: {number}, resumed in {self._epoch_name} "
      f"{step // self._per_epoch + 1}, after step {step}"
    )

  def _within_epoch(self, step: int) -> str:
    """Text of a line within an epoch that takes long."""
    epoch = min(step // self._per_epoch, self._epochs - 1)
    parts = [
      f"{self._epoch_name} {epoch + 1} of {self._epochs}",
      f"step {step - epoch * self._per_epoch} of {self._per_epoch}",
    ]
    if "loss" in self._latest:
      parts.append(f"loss {self._latest['loss']:#.4g}")
    return ", ".join(filter(None, (*parts, self._time_left(step))))

  def _compiling(self) -> float:
    return self._times.seconds()[_times.COMPILING]

  def _working_time(self) -> float:
    return time.monotonic() - self._compiling()

  def _time_left(self, step: int) -> str:
    """Time that the steps after this one will take, measurements included."""
    since, began = self._marks[0]
    left = self._epochs * self._per_epoch - step
    if step <= since or left <= 0:
      return ""
    seconds = (self._working_time() - began) / (step - since) * left
    return f"{_duration(seconds)} left"


def length_in_words(batches: data.Batches, epochs: int) -> str:
  """Length of a training run: its epochs and steps, or rounds of federated learning.

  Args:
    batches: The training batches.
    epochs: Passes over the data.
  """
  _, name = _images_and_name(batches)
  number = f"{epochs} {name}{'' if epochs == 1 else 's'}"
  steps = batches.steps_per_epoch
  return number if name == "round" else f"{number} of {_steps(steps)}"


def _steps(number: int) -> str:
  return f"{number} step{'' if number == 1 else 's'}"


def _images_and_name(batches: data.Batches) -> tuple[int, str]:
  """Number of images that an epoch trains on, and the name of an epoch."""
  batches = teacher_cache.without_cache(batches)
  if isinstance(batches, data.FederatedBatches):
    rows = batches.local_steps * batches.minibatch_size
    images = batches.clients_per_round * rows * batches.rounds_per_epoch
    return images, "round" if batches.rounds_per_epoch == 1 else "epoch"
  images = batches.steps_per_epoch * batches.batch_size
  return min(images, batches.num_examples), "epoch"


def _told(measured: Mapping[str, Any]) -> Sequence[str]:
  """Names of the measurements that a line has.

  They are the accuracies; without any, the information flow of the last tap of each
  network.
  """
  accuracies = [name for name in measured if _ACCURACY.fullmatch(name)]
  flows = {
    match[1]: name for name in measured if (match := _FLOW.fullmatch(name)) is not None
  }
  return accuracies or [*flows.values()]


def _in_words(name: str, value: ArrayLike) -> str:
  number = float(np.asarray(value))
  if match := _ACCURACY.fullmatch(name):
    of = f" of {match[1]}" if match[1] else ""
    return f"{match[2]} accuracy{of} {100 * number:.2f} %"
  match = _FLOW.fullmatch(name)
  tap = name if match is None else "/".join(filter(None, match.groups()))
  return f"information flow of {tap} {number:#.4g}"


def _is_ready(value: ArrayLike) -> bool:
  """Returns whether a number can be read without waiting for a device."""
  is_ready = getattr(value, "is_ready", None)
  return is_ready is None or is_ready()


def _duration(seconds: float) -> str:
  """A time in words, with two digits or so."""
  if seconds < 99.5:
    return f"{max(math.ceil(seconds), 1)} s"
  minutes = round(seconds / 60)
  if minutes < 100:
    return f"{minutes} min"
  return f"{minutes // 60} h {minutes % 60} min"

"""Progress bars on terminals and in notebooks; a few plain lines in log files."""

import importlib.util
import time
from collections.abc import Callable
from collections.abc import Mapping

from rich import console as rich_console
from rich import progress as rich_progress
from rich import text as rich_text

from flowkd_jax.train import _processes


class Progress:
  """Shows how far long work has come: one bar at a time.

  On a terminal, or in a notebook that has ipywidgets, a live bar; elsewhere a line when
  the work starts and one every `quiet_seconds`. Of several processes only the first
  speaks.
  """

  def __init__(
    self, console: rich_console.Console | None = None, *, quiet_seconds: float = 30.0
  ):
    """Writes to `console`, by default the standard output."""
    self.console = console or rich_console.Console(highlight=False)
    self.console.quiet |= not _processes.is_first_process()
    self._quiet_seconds = quiet_seconds
    self._bar: rich_progress.Progress | None = None
    self._task: rich_progress.TaskID | None = None
    self._title, self._total, self._said = "", 0, 0.0

  def say(self, text: str) -> None:
    """Prints a line above the bar, as it is: no markup, and never cut or wrapped.

    A path such as `runs/[bold]y` is text, and a line that was copied has to work.
    """
    self.console.print(rich_text.Text(text), soft_wrap=True)

  def start(self, title: str, total: int, done: int = 0) -> None:
    """Begins a new bar of `total` units."""
    self.stop()
    self._title, self._total, self._said = title, total, time.monotonic()
    if not self._is_live():
      self.say(f"{title}: {total} steps" + (f", {done} done before" if done else ""))
      return
    self._bar = rich_progress.Progress(
      rich_progress.TextColumn("{task.description}", markup=False),
      rich_progress.BarColumn(),
      rich_progress.MofNCompleteColumn(),
      rich_progress.TimeElapsedColumn(),
      rich_progress.TimeRemainingColumn(),
      rich_progress.TextColumn("{task.fields[note]}", markup=False),
      console=self.console,
    )
    self._bar.start()
    self._task = self._bar.add_task(title, total=total, completed=done, note="")

  def _is_live(self) -> bool:
    """In a notebook rich moves its bars by ipywidgets, and warns without."""
    if self.console.is_jupyter:
      return importlib.util.find_spec("ipywidgets") is not None
    return self.console.is_terminal

  def update(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
    """Moves the bar to `done` units, with a few numbers beside it."""
    note = "  ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
    if self._bar is not None and self._task is not None:
      self._bar.update(self._task, completed=done)
      if metrics:
        self._bar.update(self._task, note=note)
      return
    now = time.monotonic()
    if now - self._said >= self._quiet_seconds:
      self._said = now
      self.say(f"{self._title}: {done} of {self._total}  {note}".rstrip())

  def stop(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.stop()
    self._bar = self._task = None

  def counter(self, title: str) -> Callable[[int, int], None]:
    """A `(done, total)` callback that starts a bar on its first call."""
    started = False

    def count(done: int, total: int) -> None:
      nonlocal started
      if not started:
        self.start(title, total)
        started = True
      self.update(done)
      if done >= total:
        self.stop()

    return count

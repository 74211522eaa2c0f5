"""Progress bars on terminals and in notebooks; a few plain lines in log files."""

import importlib.util
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping

from rich import console as rich_console
from rich import measure as rich_measure
from rich import progress as rich_progress
from rich import table as rich_table
from rich import text as rich_text

from flowkd_jax.train import _processes

_WIDEST = 1000  # columns of a table in a file


class Progress:
  """Shows how far long work has come: one bar at a time.

  On a terminal, or in a notebook that has ipywidgets, a live bar; elsewhere a line when
  the work starts and one every `quiet_seconds`. Of several processes only the first
  speaks.

  Attributes:
    console: The console of rich that is written to.
    quiet_seconds: Seconds between two lines about one work where there is no live bar.
  """

  def __init__(
    self, console: rich_console.Console | None = None, *, quiet_seconds: float = 60.0
  ):
    """Writes to `console`, by default the standard output."""
    self.console = console or standard_output()
    self.console.quiet |= not _processes.is_first_process()
    self.quiet_seconds = quiet_seconds
    self._bar: rich_progress.Progress | None = None
    self._task: rich_progress.TaskID | None = None
    self._title, self._total, self._said = "", 0, 0.0

  def say(self, text: str) -> None:
    """Prints a line above the bar, as it is: no markup, and never cut or wrapped.

    A path such as `runs/[bold]y` is text, and a line that was copied has to work.
    """
    self.console.print(rich_text.Text(text), soft_wrap=True)

  def print_table(self, table: rich_table.Table) -> None:
    """Prints a table: as wide as a terminal is, elsewhere as wide as it needs."""
    console = self.console
    if not (self.is_live or console.is_jupyter):
      # A file has no width: rich would take 80 columns, and wrap.
      options = console.options.update(width=_WIDEST)
      width = rich_measure.Measurement.get(console, options, table).maximum
      console = rich_console.Console(
        file=console.file, width=width, quiet=console.quiet, highlight=False
      )
    console.print(table)

  def start(
    self, title: str, total: int, done: int = 0, *, heading: str | None = None
  ) -> None:
    """Begins a new bar of `total` units.

    Args:
      title: Text beside the bar.
      total: Number of units.
      done: Number of units that were done before.
      heading: Line that is printed in place of a live bar, none if it is empty. By
        default it says title and units.
    """
    self.stop()
    self._title, self._total, self._said = title, total, time.monotonic()
    if not self.is_live:
      if heading is None:
        before = f", {done} done before" if done else ""
        heading = f"{title}: {total} steps{before}"
      if heading:
        self.say(heading)
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

  @property
  def is_live(self) -> bool:
    """Tells whether bars can move; where they cannot, lines are printed."""
    if self.console.is_jupyter:  # There rich needs ipywidgets, and warns without.
      return importlib.util.find_spec("ipywidgets") is not None
    return self.console.is_interactive

  def update(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
    """Moves the bar to `done` units, with a few numbers beside it."""
    note = "  ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
    if self._bar is not None and self._task is not None:
      self._bar.update(self._task, completed=done)
      if metrics:
        self._bar.update(self._task, note=note)
      return
    now = time.monotonic()
    if now - self._said >= self.quiet_seconds:
      self._said = now
      self.say(f"{self._title}: {done} of {self._total}  {note}".rstrip())

  def stop(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.stop()
    self._bar = self._task = None

  def counter(self, title: str) -> Callable[[int, int], None]:
    """A `(done, total)` callback that starts a bar on its first call.

    Where there is no live bar, only work that takes longer than `quiet_seconds` is
    mentioned.
    """
    started = False

    def count(done: int, total: int) -> None:
      nonlocal started
      if not started:
        self.start(title, total, heading="")
        started = True
      self.update(done)
      if done >= total:
        self.stop()

    return count


def standard_output() -> rich_console.Console:
  """A console whose bars move only on a real terminal.

  FORCE_COLOR, which many build servers set, makes rich take a file for a terminal: the
  log would be full of control codes.
  """
  interactive = None if sys.stdout.isatty() else False
  return rich_console.Console(highlight=False, force_interactive=interactive)

"""Progress of a study: number of finished runs, and a line for each run in progress.

`train.Progress` is not used here: it asks JAX for the number of processes, which starts
a backend. The backend would take accelerator memory from the runs.
"""

import time
from collections.abc import Mapping

from rich import console as rich_console
from rich import live as rich_live
from rich import text as rich_text

from flowkd_jax import train


class ProgressLines:
  """A context in which the progress of a study is shown.

  On a terminal the lines are updated in place. Elsewhere they are printed at the start
  and every `quiet_seconds`.
  """

  def __init__(
    self,
    title: str,
    total: int,
    done: int = 0,
    *,
    console: rich_console.Console | None = None,
    quiet_seconds: float = 30.0,
  ):
    """Shows `title` and `done` of `total` on `console`, by default standard output."""
    self.console = console or train.standard_output()
    self._title, self._total, self._done = title, total, done
    self._quiet_seconds = quiet_seconds
    self._lines: dict[str, str] = {}
    self._live: rich_live.Live | None = None
    self._began = self._said = time.monotonic()

  def __enter__(self) -> "ProgressLines":
    if self.console.is_interactive:
      self._live = rich_live.Live(
        get_renderable=self._renderable, console=self.console, auto_refresh=False
      )
      self._live.start()
    else:
      self.say(self._heading())
    return self

  def __exit__(self, *error: object) -> None:
    if self._live is not None:
      self._lines = {}
      self._live.stop()

  def say(self, text: str) -> None:
    """Prints a line above the others, without markup, never cut or wrapped."""
    self.console.print(rich_text.Text(text), soft_wrap=True)

  def update(self, done: int, lines: Mapping[str, str]) -> None:
    """Sets the number of finished runs, and the last line of each running run."""
    self._done, self._lines = done, dict(lines)
    now = time.monotonic()
    if self._live is not None:
      self._live.refresh()
    elif now - self._said >= self._quiet_seconds:
      self._said = now
      for text in (self._heading(), *self._texts()):
        self.say(text)

  def _heading(self) -> str:
    minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
    passed = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    return f"{self._title}: {self._done} of {self._total} runs, {passed}"

  def _texts(self) -> list[str]:
    return [f"  {name}: {line}" for name, line in self._lines.items()]

  def _renderable(self) -> rich_console.Group:
    # Lines are cut to the width, because a wrapped line would move all others.
    texts = [self._heading(), *self._texts()]
    return rich_console.Group(
      *(rich_text.Text(text, no_wrap=True, overflow="ellipsis") for text in texts)
    )

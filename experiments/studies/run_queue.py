"""Runs of several studies in order, within a time limit, resumable on another machine.

`Queue.run` starts the unfinished runs. Another run is started at the same time only
while the total speed still increases. All runs are stopped before the time is over. A
folder then has a bundle for each finished run (`bundles`) and the state of the others
(`saved_state`).
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.studies import bundles
from experiments.studies import estimates
from experiments.studies import launches
from experiments.studies import queue_rows
from experiments.studies import saved_state
from experiments.studies import step_costs
from flowkd_jax import _files

REPORT = "queue.json"
GROUPS = ("finished", "failed", "left")  # lists of runs in the report
_POLL_SECONDS = 0.2
_PERIOD = 60.0  # seconds over which the speed of all runs together is measured
_FASTER = 1.1  # speed-up for which another run is started
# Shares of the time limit. A run is started only if the first share is left. The second
# share is for stopping and packing, in seconds at most the third number.
_START_SHARE, _STOP_SHARE, _LONGEST_STOP = 0.1, 0.1, 40.0
_PATIENCE = 0.6  # share of the time for stopping after which a run is killed


class Pace:
  """Number of runs at the same time, raised while the total speed increases."""

  def __init__(self, most: int):
    """Starts with one run of at most `most`."""
    self.number, self._most, self._best, self._settled = 1, most, 0.0, most == 1

  def measured(self, running: int, speed: float) -> None:
    """Updates the number by the measured speed of all runs together.

    Args:
      running: Number of runs that were running all the time.
      speed: Work per second, in any unit.
    """
    if self._settled or running < self.number or speed <= 0:
      return
    if speed > _FASTER * self._best:
      self._best = speed
      self._settled = self.number == self._most
      self.number = min(self.number + 1, self._most)
    else:
      self.number, self._settled = max(self.number - 1, 1), True


@dataclasses.dataclass
class Queue:
  """Runs within a time limit.

  Attributes:
    root: Work directory.
    out: Folder for bundles and state.
    seconds: Time limit.
    processes: Maximum number of runs at the same time.
    costs: Known costs of launches.
    about: Further entries of the report, such as the commit.
    carried: Runs in the state of an earlier call, packed again unless finished.
    blocked: Runs that cannot start, and the reason.
    say: Prints a line.
    clock: Returns the time in seconds, from any origin.
    sleep: Waits for seconds.
    start: Starts a launch.
    stop: Stops launches within seconds; returns launches that failed.
  """

  root: Path
  out: Path
  seconds: float
  processes: int = 1
  costs: step_costs.Costs = dataclasses.field(default_factory=step_costs.read)
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  carried: Sequence[str] = ()
  blocked: Mapping[str, str] = dataclasses.field(default_factory=dict)
  say: Callable[[str], None] = functools.partial(print, flush=True)
  clock: Callable[[], float] = time.monotonic
  sleep: Callable[[float], None] = time.sleep
  start: Callable[..., launches.Running] = launches.start
  stop: Callable[..., list[launches.Job]] = launches.stop

  def __post_init__(self):
    self._began = self.clock()
    self._stop_seconds = min(_STOP_SHARE * self.seconds, _LONGEST_STOP)
    self._pace = Pace(self.processes)
    self._measured_at, self._done_then, self._then = self._began, 0.0, 0
    self.waiting: list[queue_rows.Row] = []
    self.running: dict[str, launches.Running] = {}
    self.finished: list[queue_rows.Row] = []
    self.failed: list[queue_rows.Row] = []
    self._unwritten: list[str] = []  # errors of the folder of bundles and state

  def run(
    self,
    wanted: Sequence[queue_rows.Row],
    should_stop: Callable[[], str | None] = lambda: None,
  ) -> None:
    """Runs the rows in order until the time is over; then stops them and reports.

    Args:
      wanted: Rows that have to run.
      should_stop: Returns the name of a signal that came, or None.

    Raises:
      ValueError: If bundles or state could not be written. The work directory still
        has all runs.
    """
    self._rows = {row.name: row for row in wanted}
    self.waiting = [*wanted]
    self.say(self.total())
    try:
      while self._goes_on() and not should_stop():
        self._start_ready()
        self.sleep(_POLL_SECONDS)
        self._collect()
        self._measure()
    finally:
      self._halt()
      self._leave()
    if self._unwritten:
      raise ValueError(
        f"--out: expected a folder with room for bundles and state, got {self.out} "
        f"({self._unwritten[-1]}); nothing is lost: repeat the command with the same "
        f"--workdir={self.root} and another --out, or make room"
      )

  def total(self) -> str:
    """A line with the number of rows and the total of the known times."""
    found = [self._left(row).seconds for row in self.waiting]
    known = [seconds for seconds in found if seconds is not None]
    time_left = estimates.in_words(sum(known)) if known else "time not known"
    unknown = f", {len(found) - len(known)} of them not known" if known else ""
    return (
      f"{len(found)} runs to do, {time_left}{unknown}; one after another, with "
      "estimates for an H100 for runs that were not timed"
    )

  def _goes_on(self) -> bool:
    if self._left_seconds <= self._stop_seconds:
      return False
    return bool(self.running) or (self._may_start and self._next() is not None)

  @property
  def _left_seconds(self) -> float:
    return self.seconds - (self.clock() - self._began)

  @property
  def _may_start(self) -> bool:
    return self._left_seconds > self._stop_seconds + _START_SHARE * self.seconds

  def _next(self) -> queue_rows.Row | None:
    """The first row whose required networks exist."""
    ready = (
      row
      for row in self.waiting
      if row.name not in self.blocked
      and all(self._rows[n].job.is_done for n in row.needs if n in self._rows)
    )
    return next(ready, None)

  def _start_ready(self) -> None:
    while len(self.running) < self._pace.number and self._may_start:
      row = self._next()
      if row is None:
        return
      self.waiting.remove(row)
      slots = {each.slot for each in self.running.values()}
      slot = min({*range(self.processes)} - slots)
      self.running[row.name] = self.start(row.job, slot, self.processes)
      self.say(f"started {row.name}: {self._in_words(row)}")

  def _collect(self) -> None:
    for name, each in [*self.running.items()]:
      if each.process.poll() is None:
        continue
      del self.running[name]
      row = self._rows[name]
      if each.has_failed:
        self.failed.append(row)
        self.say(f"failed: {name}: {each.last_line}; see {each.job.log}")
      else:
        self._finish(row)

  def _finish(self, row: queue_rows.Row) -> None:
    self.finished.append(row)
    diverged = row.job.diverged
    without = f", except {', '.join(diverged)}, which diverged" if diverged else ""
    self.say(f"finished {row.name}{without}")
    self._written(lambda: bundles.add(self.out, self.root, row.name))

  def _written(self, write: Callable[[], Any]) -> Any:
    """Result of writing to the folder of bundles and state, None if it failed.

    The other runs continue, because the work directory has all that was not written.
    """
    try:
      return write()
    except (OSError, ValueError) as error:
      self._unwritten.append(str(error))
      self.say(f"cannot write to --out={self.out}: {error}")
      return None

  def _measure(self) -> None:
    """Measures the speed of all runs together, at most once a period."""
    now = self.clock()
    if now - self._measured_at < min(_PERIOD, self.seconds / 8):
      return
    done = sum(
      step_costs.done(row.job.folder, self.costs.get(row.launch, ()))
      for row in self._rows.values()
    )
    running = len(self.running)
    if running == self._then:  # no run started or ended in between
      speed = (done - self._done_then) / (now - self._measured_at)
      self._pace.measured(running, speed)
    self._measured_at, self._done_then, self._then = now, done, running
    for name in self.running:
      row = self._rows[name]
      trained = self._trained(row)
      self.say(f"at work: {name}, {trained}{self._in_words(row)} to go")

  def _trained(self, row: queue_rows.Row) -> str:
    """The newest stage of a run and its epochs; "" before the first epoch."""
    found = step_costs.epochs(row.job.folder)
    if not found:
      return ""
    (*_, stage) = found
    whole = {cost.stage: cost.epochs for cost in self.costs.get(row.launch, ())}
    of = f" of {whole[stage]}" if stage in whole else ""
    return f"{stage} {len(found[stage])}{of} epochs, "

  def _halt(self) -> None:
    """Stops all runs after they have saved their state."""
    stopped, self.running = self.running, {}
    if not stopped:
      return
    failed = self.stop(stopped.values(), _PATIENCE * self._stop_seconds)
    for name, each in stopped.items():
      row = self._rows[name]
      if each.job.is_done:
        self._finish(row)
      elif each.job in failed:
        self.failed.append(row)
        self.say(f"failed while it was stopped: {name}, see {each.job.log}")
      else:
        self.waiting.append(row)

  def _leave(self) -> None:
    """Packs the files that a later call needs, and prints the unfinished runs."""
    left_rows = [row for row in self._rows.values() if row in self.waiting]
    parts = self._written(lambda: self._pack(left_rows)) or []
    for row in left_rows:
      self.say(f"left: {row.name}, {self.blocked.get(row.name) or self._in_words(row)}")
    names = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in parts)
    self.say(
      f"{len(self.finished)} finished, {len(self.failed)} failed, {len(left_rows)} "
      f"left; in {self.out}: {names or 'no state to go on from'}"
    )
    report = f"{json.dumps(self._report(left_rows), indent=1)}\n"
    self._written(lambda: _files.write_text(self.out / REPORT, report))

  def _pack(self, left_rows: Sequence[queue_rows.Row]) -> list[Path]:
    """Packs begun runs, networks that other runs need, and earlier state."""
    needed = {name for row in left_rows for name in row.needs}
    packed = [row.name for row in (*left_rows, *self.failed) if row.has_begun]
    packed += sorted(name for name in needed if (self.root / name).exists())
    done = {row.name for row in self._rows.values() if row.job.is_done}
    packed += [name for name in self.carried if name not in done]
    return saved_state.pack(self.out, self.root, dict.fromkeys(packed))

  def _report(self, left_rows: Sequence[queue_rows.Row]) -> Mapping[str, object]:
    found = {row.name: self._left(row) for row in left_rows}
    return {
      **self.about,
      "minutes": round((self.clock() - self._began) / 60, 2),
      "finished": [row.name for row in self.finished],
      "failed": [row.name for row in self.failed],
      "left": {
        name: {
          "minutes": None if one.seconds is None else round(one.seconds / 60, 1),
          "measured": one.measured,
        }
        for name, one in found.items()
      },
    }

  def _left(self, row: queue_rows.Row) -> step_costs.Left:
    costs = self.costs.get(row.launch, ())
    return step_costs.left(row.job.folder, costs, self._factor or 1.0)

  @property
  def _factor(self) -> float | None:
    """Ratio of measured to estimated time of an epoch on this device."""
    return step_costs.factor_of(
      [(row.job.folder, self.costs.get(row.launch, ())) for row in self._rows.values()]
    )

  def _in_words(self, row: queue_rows.Row) -> str:
    """The time that a row needs, and the source of the number."""
    found = self._left(row)
    if found.seconds is None:
      return "time not known"
    time_left = estimates.in_words(found.seconds)
    if found.measured:
      return f"about {time_left} by its measured epochs"
    scaled = "" if self._factor is None else ", scaled by runs that were timed here"
    return f"about {time_left}, an estimate from the size of a step{scaled}"

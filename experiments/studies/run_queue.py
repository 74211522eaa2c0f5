"""Runs of several studies in order, for so many minutes, resumable on another machine.

`run` starts runs that are not finished, several at a time as long as all together get
faster, stops them before the time is over, and leaves in a folder a bundle for each
finished run and the state of the others (`bundles`).
"""

import dataclasses
import json
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.studies import bundles
from experiments.studies import estimates
from experiments.studies import launches
from experiments.studies import step_costs
from flowkd_jax import _files

REPORT = "queue.json"
_POLL_SECONDS = 0.2
_PERIOD = 60.0  # seconds over which the speed of all runs together is measured
_FASTER = 1.1  # times as fast as before, for which one more run is started
# Shares of the time: the least with which a run is started, and that for stopping and
# packing.
_START_SHARE, _STOP_SHARE, _LONGEST_STOP = 0.1, 0.1, 40.0
_PATIENCE = 0.6  # share of the latter after which a run is killed


class Row(NamedTuple):
  """A run of the queue.

  Attributes:
    name: STUDY/RUN/SEED, its folder below the work directory.
    job: Its launch.
    needs: Names of runs whose networks it starts from.
  """

  name: str
  job: launches.Job
  needs: tuple[str, ...] = ()

  @property
  def launch(self) -> str:
    """STUDY/RUN."""
    return self.name.rpartition("/")[0]

  @property
  def has_begun(self) -> bool:
    """True if it has left something in its folder and is not finished."""
    return self.job.folder.exists() and not self.job.is_done


def rows(jobs: Iterable[launches.Job], root: Path) -> list[Row]:
  """The launches as rows of a queue.

  Args:
    jobs: Launches with folders ROOT/STUDY/RUN/SEED.
    root: Work directory of the queue.
  """
  named = {str(job.folder.relative_to(root)): job for job in jobs}

  def needs(name, job):
    values = (Path(flag.partition("=")[2]) for flag in job.command if "=" in flag)
    inside = [str(v.relative_to(root)) for v in values if v.is_relative_to(root)]
    return tuple(other for other in dict.fromkeys(inside) if other in {*named} - {name})

  return [Row(name, job, needs(name, job)) for name, job in named.items()]


def left(wanted: Sequence[Row], finished: set[str]) -> list[Row]:
  """Rows that have to run, in order.

  A finished run is among them if another starts from its networks, which are not here.

  Args:
    wanted: All rows.
    finished: Names of rows whose results are known already.
  """
  by_name = {row.name: row for row in wanted}
  needed: set[str] = set()

  def add(name):
    row = by_name[name]
    if name not in needed and not row.job.is_done:
      needed.add(name)
      for other in row.needs:
        add(other)

  for row in wanted:
    if row.name not in finished:
      add(row.name)
  return [row for row in wanted if row.name in needed]


class Pace:
  """Number of runs at the same time, raised as long as all together get faster."""

  def __init__(self, most: int):
    """Starts with one of at most `most` runs."""
    self.number, self._most, self._best, self._settled = 1, most, 0.0, most == 1

  def measured(self, running: int, speed: float) -> None:
    """Takes the speed of all runs together, in any unit.

    Args:
      running: Number of runs that were at work all the time.
      speed: What they did in a second.
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
  """Runs at work within a limit of time.

  Attributes:
    root: Work directory.
    out: Folder for bundles and state.
    seconds: The time that there is.
    processes: The most runs at the same time.
    costs: Known costs of launches.
    say: Prints a line.
    clock: Seconds that have passed, of any beginning.
    sleep: Waits for seconds.
    start: Starts a launch.
    stop: Stops launches within seconds; returns those that failed.
  """

  root: Path
  out: Path
  seconds: float
  processes: int = 1
  costs: step_costs.Costs = dataclasses.field(default_factory=step_costs.read)
  say: Callable[[str], None] = print
  clock: Callable[[], float] = time.monotonic
  sleep: Callable[[float], None] = time.sleep
  start: Callable[..., launches.Running] = launches.start
  stop: Callable[..., list[launches.Job]] = launches.stop

  def __post_init__(self):
    self._began = self.clock()
    self._stop_seconds = min(_STOP_SHARE * self.seconds, _LONGEST_STOP)
    self._pace = Pace(self.processes)
    self._measured_at, self._done_then, self._then = self._began, 0.0, 0
    self.waiting: list[Row] = []
    self.running: dict[str, launches.Running] = {}
    self.finished: list[Row] = []
    self.failed: list[Row] = []

  def run(
    self, wanted: Sequence[Row], should_stop: Callable[[], str | None] = lambda: None
  ) -> None:
    """Runs the rows in order until the time is over; then stops them and reports.

    Args:
      wanted: Rows that have to run.
      should_stop: Returns the name of a signal that came, or None.
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

  def total(self) -> str:
    """A line with the number of rows and the time of those whose time is known."""
    found = [self._left(row).seconds for row in self.waiting]
    known = [seconds for seconds in found if seconds is not None]
    time_left = estimates.in_words(sum(known)) if known else "time not known"
    unknown = f", {len(found) - len(known)} of them not known" if known else ""
    return (
      f"{len(found)} runs to do, {time_left}{unknown}; of runs that were not timed an "
      "estimate for an H100, one after another"
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

  def _next(self) -> Row | None:
    """The first row whose networks to start from are there."""
    ready = (
      row
      for row in self.waiting
      if all(self._rows[n].job.is_done for n in row.needs if n in self._rows)
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
        self.say(f"failed: {name}, see {each.job.log}")
      else:
        self._finish(row)

  def _finish(self, row: Row) -> None:
    bundles.add(self.out, self.root, row.name)
    self.finished.append(row)
    self.say(f"finished {row.name}")

  def _measure(self) -> None:
    """Measures the speed of all runs together, once in a while."""
    now = self.clock()
    if now - self._measured_at < min(_PERIOD, self.seconds / 8):
      return
    done = sum(
      step_costs.done(row.job.folder, self.costs.get(row.launch, ()))
      for row in self._rows.values()
    )
    running = len(self.running)
    if running == self._then:  # not while one was started or had ended
      speed = (done - self._done_then) / (now - self._measured_at)
      self._pace.measured(running, speed)
    self._measured_at, self._done_then, self._then = now, done, running
    for name in self.running:
      self.say(f"at work: {name}, {self._in_words(self._rows[name])} to go")

  def _halt(self) -> None:
    """Has all runs save their state and end."""
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
    """Packs what a later call needs, and says what is left."""
    left_rows = [row for row in self._rows.values() if row in self.waiting]
    needed = {name for row in left_rows for name in row.needs}
    packed = [row.name for row in (*left_rows, *self.failed) if row.has_begun]
    packed += sorted(name for name in needed if (self.root / name).exists())
    parts = bundles.pack(self.out, self.root, dict.fromkeys(packed))
    for row in left_rows:
      self.say(f"left: {row.name}, {self._in_words(row)}")
    names = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in parts)
    self.say(
      f"{len(self.finished)} finished, {len(self.failed)} failed, {len(left_rows)} "
      f"left; in {self.out}: {names or 'no state to go on from'}"
    )
    report = json.dumps(self._report(left_rows), indent=1)
    _files.write_text(self.out / REPORT, f"{report}\n")

  def _report(self, left_rows: Sequence[Row]) -> Mapping[str, object]:
    found = {row.name: self._left(row) for row in left_rows}
    return {
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

  def _left(self, row: Row) -> step_costs.Left:
    costs = self.costs.get(row.launch, ())
    return step_costs.left(row.job.folder, costs, self._factor or 1.0)

  @property
  def _factor(self) -> float | None:
    """Measured over estimated time of an epoch on this device."""
    return step_costs.factor_of(
      [(row.job.folder, self.costs.get(row.launch, ())) for row in self._rows.values()]
    )

  def _in_words(self, row: Row) -> str:
    """The time that a row needs, and where the number comes from."""
    found = self._left(row)
    if found.seconds is None:
      return "time not known"
    time_left = estimates.in_words(found.seconds)
    if found.measured:
      return f"about {time_left} by its measured epochs"
    scaled = "" if self._factor is None else ", scaled by runs that were timed here"
    return f"about {time_left}, an estimate from the size of a step{scaled}"

"""A call of the driver with a budget: reads what earlier calls left, runs the queue.

A run counts as finished if it is among the kept results, or if its bundle is in the
folder of an earlier call or of this call. The states of both folders are unpacked.
Therefore nothing is lost if a call writes to the folder of an earlier one.
"""

import json
import re
import shlex
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

from experiments.studies import bundles
from experiments.studies import catalogue
from experiments.studies import data_pieces
from experiments.studies import estimates
from experiments.studies import launches
from experiments.studies import queue_rows
from experiments.studies import run_queue
from experiments.studies import saved_state
from experiments.studies import spec
from experiments.studies import step_costs
from flowkd_jax import train
from flowkd_jax.jobs import environment

# Data sets that come with a package, or are derived from another data set.
_WITHOUT_FILES, _ROTATED = ("digits",), "_rotated"


class Call(NamedTuple):
  """Settings of a call.

  Attributes:
    study: Study or queue of studies.
    root: Work directory.
    data_dir: Folder of the data sets. It may be in pieces.
    out: Folder for bundles and state.
    continue_from: Folder of an earlier call, None for none.
    seconds: Time limit.
    processes: Maximum number of runs at the same time.
  """

  study: str
  root: Path
  data_dir: Path
  out: Path
  continue_from: Path | None
  seconds: float
  processes: int

  @property
  def earlier(self) -> list[Path]:
    """Folders that may hold what earlier calls have left."""
    folders = [self.continue_from] if self.continue_from else []
    if self.out.resolve() not in [folder.resolve() for folder in folders]:
      folders.append(self.out)
    return folders


def run(
  call: Call, jobs: Callable[[Path], list[launches.Job]], kept: Iterable[str]
) -> None:
  """Runs all runs that are neither kept nor bundled, until the time is over.

  Args:
    call: The settings.
    jobs: `folder of the data sets -> launches` in their order.
    kept: Names of runs that are among the kept results.

  Raises:
    ValueError: If an earlier call or the data cannot be used, or bundles and state
      could not be written at the end.
  """
  began = time.monotonic()
  _check_writable(call.out)
  finished = {*kept} | _bundled(call, jobs(call.data_dir))
  states = [saved_state.unpack(folder, call.root) for folder in call.earlier]
  data_dir = _joined(call)
  wanted = queue_rows.rows(jobs(data_dir), call.root)
  if call.continue_from:
    bundles.copy(call.continue_from, call.out)
  _bundle_finished(call, wanted, finished)
  left = queue_rows.left(wanted, finished)
  queue = run_queue.Queue(
    call.root,
    call.out,
    call.seconds - (time.monotonic() - began),
    call.processes,
    about={"study": call.study, "commit": environment.commit()},
    carried=[name for state in states for name in state],
    blocked=waiting(left) | without_data(left, data_dir),
  )
  with train.stop_on_signals() as should_stop:
    queue.run(left, should_stop)


def print_rows(
  call: Call, jobs: Callable[[Path], list[launches.Job]], kept: Iterable[str]
) -> None:
  """Prints the commands of unfinished runs; writes nothing.

  A line before each command has its time on an H100, estimated from its steps.

  Args:
    call: The settings.
    jobs: `folder of the data sets -> launches` in their order.
    kept: Names of runs that are among the kept results.
  """
  found = jobs(call.data_dir)
  finished = {*kept} | _bundled(call, found)
  costs = step_costs.read()
  for row in queue_rows.left(queue_rows.rows(found, call.root), finished):
    cost = step_costs.left(row.job.folder, costs.get(row.launch, ()))
    if cost.seconds is not None:
      time_left = estimates.in_words(cost.seconds)
      print(f"# about {time_left} on an H100, an estimate from the size of a step")
    print(shlex.join(row.job.command))


def waiting(rows: Sequence[queue_rows.Row]) -> dict[str, str]:
  """Runs whose study waits for something, and the reason.

  Args:
    rows: Runs.
  """
  reasons = {row.name: _study(row).waits for row in rows}
  return {name: reason for name, reason in reasons.items() if reason}


def _study(row: queue_rows.Row) -> spec.Study:
  return catalogue.STUDIES[row.name.partition("/")[0]]


def without_data(rows: Sequence[queue_rows.Row], data_dir: Path) -> dict[str, str]:
  """Runs whose data set is not in the folder, and the reason.

  Args:
    rows: Runs.
    data_dir: Folder of the data sets.

  Raises:
    ValueError: If no run has its data set.
  """
  blocked = {}
  for row in rows:
    name = _dataset(row.job.command)
    if name and not (data_dir / name).is_dir():
      blocked[row.name] = f"no {name} in --data_dir={data_dir}"
  if rows and len(blocked) == len(rows):
    sets = sorted({_dataset(row.job.command) for row in rows})
    raise ValueError(
      f"--data_dir: expected a folder with the prepared data sets {', '.join(sets)}, "
      f"got {data_dir}, which has none of them"
    )
  return blocked


def _dataset(command: Sequence[str]) -> str:
  """Name of the data set that a launch reads from --data_dir, "" for none."""
  named = (flag.removeprefix("--").partition("=") for flag in command)
  flags = {name: value for name, _, value in named}
  found = re.match(r"\w+", flags.get("dataset", ""))
  name = found[0].removesuffix(_ROTATED) if found else ""
  return name if "data_dir" in flags and name not in _WITHOUT_FILES else ""


def _check_writable(out: Path) -> None:
  """Raises ValueError if no file can be written. Called before any run starts."""
  made = next((each for each in (out, *out.parents) if each.exists()), out)
  try:
    with tempfile.NamedTemporaryFile(dir=made) as file:
      file.write(bytes(2**16))
  except OSError as error:
    raise ValueError(
      f"--out: expected a folder to write to, got {out} ({error.strerror})"
    ) from None


def _joined(call: Call) -> Path:
  if not call.data_dir.parent.is_dir():
    return call.data_dir
  return data_pieces.joined(call.data_dir, call.root / "data")


def _bundled(call: Call, found: Sequence[launches.Job]) -> set[str]:
  """Names of runs with bundles; refuses a folder of another study."""
  if call.continue_from:
    wanted = {str(job.folder.relative_to(call.root)) for job in found}
    _check_earlier(call, call.continue_from, wanted)
  return set().union(*(bundles.names(each) for each in call.earlier))


def _check_earlier(call: Call, folder: Path, wanted: set[str]) -> None:
  report = _read_report(folder / run_queue.REPORT)
  bundled = bundles.names(folder)
  if not (report or bundled or saved_state.parts(folder)):
    raise ValueError(
      "--continue_from: expected a folder that an earlier call has filled as its --out "
      f"({bundles.FILE}, {saved_state.NAME}.000, {run_queue.REPORT}), got {folder}, "
      "which has none of these"
    )
  known = bundled.union(*(report.get(key, ()) for key in run_queue.GROUPS))
  if known and not known & wanted:
    raise ValueError(
      f"--continue_from: expected runs of --study={call.study}, got those of "
      f"{report.get('study') or 'another study'} in {folder} ({min(known)}, ...); give "
      "--study and --runs as then"
    )
  before, now = report.get("commit"), environment.commit()
  if before and before != now:
    print(
      f"note: the state in {folder} was left by commit {before} and goes on with "
      f"{now}; results are bit-equal only with the same code",
      flush=True,
    )


def _read_report(path: Path) -> dict[str, Any]:
  """Report of an earlier call; empty if the file is missing or damaged."""
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def _bundle_finished(
  call: Call, wanted: Sequence[queue_rows.Row], finished: set[str]
) -> None:
  """Bundles runs that finished after their driver was killed."""
  for row in wanted:
    if row.job.is_done and row.name not in finished:
      bundles.add(call.out, call.root, row.name)

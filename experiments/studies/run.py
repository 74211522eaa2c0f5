r"""Runs the studies behind the results page: many launches, one or several at a time.

    python -m experiments.studies.run --study=cifar10 --workdir=W --data_dir=D \
        --auxiliary_checkpoint=FILE.npz
    python -m experiments.studies.run --study=cifar10 --workdir=W ... --dry_run
    python -m experiments.studies.run --study=cifar10 --workdir=W ... --processes=4

Every run has its own folder, WORKDIR/STUDY/RUN/SEED, with its output beside it.
Finished runs are skipped and interrupted runs are resumed, so repeat the command until
all runs are done. `experiments.tables.update` makes the page from the folders.

With `--processes=N` runs share one accelerator: each gets 0.9 / N of a GPU's memory, or
the N-th part of `XLA_PYTHON_CLIENT_MEM_FRACTION` if this is set. A TPU belongs to one
process at a time. A run that fails does not stop the others.

With `--budget_minutes=M --out=DIR` the driver starts the runs without kept results, in
their order, and stops before the time is over. It leaves a bundle in DIR for each
finished run (`bundles`), which `experiments.tables.update --bundles=DIR` adds to the
results. It also leaves the state of the other runs (`saved_state`). A call with
`--continue_from=DIR` resumes from it, on this machine or another. With a budget,
`--processes` is the maximum number of runs at a time: another run is started only
while the total speed still increases.

    python -m experiments.studies.run --study=papers --data_dir=D --workdir=W \
        --budget_minutes=8 --out=DIR [--continue_from=DIR] [--processes=4]
"""

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.studies import budgeted
from experiments.studies import catalogue
from experiments.studies import estimates
from experiments.studies import launches
from experiments.studies import progress_lines
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import places

COMMAND = (sys.executable, "-m", "flowkd_jax", "train")
KEPT = Path(__file__).parents[1] / "results"
_POLL_SECONDS = 0.2
_CORES_OF_A_RUN, _MOST_OF_A_QUEUE = 4, 4


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the driver."""

  study: str = fields.setting(
    "cifar10",
    f"Study to run: {', '.join(catalogue.STUDIES)}. Or a queue of studies: "
    f"{', '.join(catalogue.QUEUES)}.",
  )
  runs: tuple[str, ...] = fields.setting(
    (), "Runs of the study, by name. Without the flag: all."
  )
  seeds: tuple[str, ...] = fields.setting(
    ("0", "1", "2"),
    "Seeds of every run, unless a queue names others for a study.",
  )
  workdir: str = fields.setting(
    "runs",
    "Folder in which every run gets a folder STUDY/RUN/SEED.",
    place=places.NEW_FOLDER,
  )
  data_dir: str = fields.setting(
    "data",
    "Folder in which tensorflow-datasets are prepared. If there are DIR.part0, "
    "DIR.part1, ... beside it, or FILE.part0, ... in it, their contents are joined.",
    place=places.PERHAPS_FOLDER,
  )
  auxiliary_checkpoint: str = fields.setting(
    "",
    "File of the authors' PyTorch weights (.npz), for studies that start from"
    " their auxiliary.",
    place=places.FILE,
  )
  processes: int | None = fields.setting(
    None,
    "Number of runs at the same time, each with its share of this machine's cores and"
    " of a GPU's memory. Without the flag: 1, and with --budget_minutes one for every "
    "four cores, up to 4, while the total speed still increases.",
    least=1,
  )
  dry_run: bool = fields.setting(
    False,
    "Print the commands of unfinished runs, and run none. For runs of the job distill, "
    "the time on the device in use is estimated too.",
  )

  budget_minutes: float = fields.setting(
    0.0,
    "Minutes after which all runs save their state and stop; 0 for no limit.",
    least=0,
  )
  out: str = fields.setting(
    "",
    "With --budget_minutes: folder for the bundles of finished runs and the state of "
    "the others.",
    place=places.NEW_FOLDER,
  )
  continue_from: str = fields.setting(
    "",
    "With --budget_minutes: --out folder of an earlier call, whose runs are resumed.",
    place=places.FOLDER,
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a study or a run is unknown, or a number is out of its range.
  """
  config = fields.configured(Config, given)
  known = (*catalogue.STUDIES, *catalogue.QUEUES)
  limits.check_choice("--study", config.study, known)
  names = [
    run.name
    for part in catalogue.parts(config.study)
    for run in catalogue.STUDIES[part.study].launches
  ]
  for name in config.runs:
    limits.check_choice("--runs", name, names)
  for seed in config.seeds:
    # 01 and 1 are the same run, but would have two folders.
    if not (seed.isdecimal() and seed == str(int(seed))):
      raise ValueError(f"--seeds: expected numbers such as 0,1,2, got {seed!r}")
    limits.check_number("--seeds", int(seed), limits.Limits(least=0))
  _check_budget(config, given)
  flags = " ".join(
    flag
    for part in catalogue.parts(config.study)
    for run in _runs(config, part)
    for flag in run.flags
  )
  if config.auxiliary_checkpoint:
    imported_weights.read("--auxiliary_checkpoint", config.auxiliary_checkpoint)
  if "{auxiliary_checkpoint}" in flags and not config.auxiliary_checkpoint:
    raise ValueError(
      "--auxiliary_checkpoint: expected a .npz of PyTorch weights of the authors' "
      "auxiliary, from which this study starts, got none"
    )
  return config


def _check_budget(config: Config, given: Mapping[str, Any]) -> None:
  if config.out and "budget_minutes" in given and not config.budget_minutes:
    raise ValueError(
      "--budget_minutes: expected above 0 with --out, got 0; omit both flags to run "
      "without a limit"
    )
  if config.budget_minutes and not config.out:
    raise ValueError(
      "--out: expected a folder for bundles and state, because --budget_minutes is "
      "given, got none"
    )
  for name in ("out", "continue_from"):
    if getattr(config, name) and not config.budget_minutes:
      raise ValueError(f"--{name}: expected with --budget_minutes, got it alone")


def run(config: Config) -> None:
  """Launches all unfinished runs.

  Raises:
    Interrupted: If a signal stopped it; every run has saved its state.
    ValueError: If runs have failed. Raised when all others are finished.
  """
  # Refuses an invalid share before any launch.
  launches.memory_share(_processes(config))
  if config.budget_minutes:
    _run_queue(config)
    return
  wanted = jobs(config)
  left = [job for job in wanted if not job.is_done]
  if config.dry_run:
    _print_commands(left)
    return
  total = len(wanted)
  shown = progress_lines.ProgressLines(
    f"study {config.study}", total, total - len(left)
  )
  with train.stop_on_signals() as should_stop, shown:
    shown.say(
      f"{_processes(config)} at once in {Path(config.workdir) / config.study}, the log "
      "of each run beside its folder"
    )
    failed = _launch(left, _processes(config), total, should_stop, shown)
    name = should_stop()
  if name:
    raise train.Interrupted(name, sum(job.is_done for job in wanted))
  if failed:
    raise ValueError(
      f"{len(failed)} of {total} runs failed: "
      f"{', '.join(str(job.folder) for job in failed)}; see the .log beside each"
    )
  shown.say(f"{total} runs are finished in {Path(config.workdir) / config.study}")


def _run_queue(config: Config) -> None:
  """Runs or prints all runs that are neither kept nor bundled."""
  call = budgeted.Call(
    config.study,
    Path(config.workdir).absolute(),
    Path(config.data_dir),
    Path(config.out),
    Path(config.continue_from) if config.continue_from else None,
    60 * config.budget_minutes,
    _processes(config),
  )

  def jobs_with(data_dir: Path) -> list[launches.Job]:
    return jobs(dataclasses.replace(config, data_dir=str(data_dir)))

  start = budgeted.print_rows if config.dry_run else budgeted.run
  start(call, jobs_with, kept_names(KEPT))


def _processes(config: Config) -> int:
  """Maximum number of runs at the same time."""
  if config.processes is not None:
    return config.processes
  if not config.budget_minutes:
    return 1
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
  return max(1, min(cores // _CORES_OF_A_RUN, _MOST_OF_A_QUEUE))


def kept_names(folder: Path) -> set[str]:
  """Names STUDY/RUN/SEED of runs that are among the kept results.

  Args:
    folder: Folder of the results, which holds STUDY/runs.json.
  """
  found = set()
  for path in folder.glob("*/runs.json"):
    runs = json.loads(path.read_text())["runs"]
    found |= {f"{path.parent.name}/{run}/{seed}" for run in runs for seed in runs[run]}
  return found


def _print_commands(left: list[launches.Job]) -> None:
  """Prints commands, with the estimated time before each distillation."""
  total = 0.0
  for job in left:
    name, *flags = job.command[len(COMMAND) :]
    counted = estimates.operations(flags) if name == estimates.JOB else None
    if counted is not None:
      seconds = counted / estimates.measured_speed()
      total += seconds
      print(f"# about {estimates.in_words(seconds)} on {estimates.device()}")
    print(shlex.join(job.command))
  if total:
    print(f"# together about {estimates.in_words(total)} on {estimates.device()}")


def _launch(
  left: list[launches.Job],
  processes: int,
  total: int,
  should_stop: Callable[[], str | None],
  shown: progress_lines.ProgressLines,
) -> list[launches.Job]:
  """Runs launches, `processes` at the same time; returns failed launches."""
  running: list[launches.Running] = []
  free = list(range(processes))
  failed = []
  try:
    while (left or running) and not should_stop():
      while left and free:
        running.append(launches.start(left.pop(0), free.pop(), processes))
      time.sleep(_POLL_SECONDS)
      for each in [each for each in running if each.process.poll() is not None]:
        running.remove(each)
        free.append(each.slot)
        if each.has_failed:
          failed.append(each.job)
          shown.say(f"failed: {each.job.folder}, see {each.job.log}")
        elif each.job.diverged:
          shown.say(f"diverged: {each.job.folder}: {', '.join(each.job.diverged)}")
      lines = {each.job.name: each.last_line for each in running}
      shown.update(total - len(left) - len(running), lines)
  finally:  # no launch continues without a driver, for any end of the loop
    for job in launches.stop(running):
      shown.say(f"failed while it was stopped: {job.folder}, see {job.log}")
  return failed


def jobs(config: Config) -> list[launches.Job]:
  """All launches, seed by seed within a study: every row has a number early."""
  root_of_all = Path(config.workdir).absolute()
  places = {
    name: getattr(config, name) for name in ("data_dir", "auxiliary_checkpoint")
  }
  places["all_studies"] = str(root_of_all)
  result = {}
  for part in catalogue.parts(config.study):
    root = root_of_all / part.study
    places["workdir"] = str(root)
    for number, seed in enumerate(part.seeds or config.seeds):
      for each in _runs(config, part):
        if each.seeds is not None and number >= each.seeds:
          continue
        folder = root / each.name / seed
        flags = [flag.format(**places, seed=seed) for flag in each.flags]
        command = [*COMMAND, each.job, *flags, "--verbosity=-1"]
        command += [f"--seed={seed}", f"--workdir={folder}"]
        result[folder] = launches.Job(folder, command)
  return [*result.values()]


def _runs(config, part):
  names = [*config.runs]
  return [
    each
    for each in catalogue.STUDIES[part.study].launches
    if (not part.runs or each.name in part.runs) and (not names or each.name in names)
  ]


if __name__ == "__main__":
  launch.launch(Config, configure, run)

r"""Runs the studies behind the results page: many launches, one or several at a time.

    python -m experiments.studies.run --study=cifar10 --workdir=W --data_dir=D \
        --auxiliary_checkpoint=FILE.npz
    python -m experiments.studies.run --study=cifar10 --workdir=W ... --dry_run
    python -m experiments.studies.run --study=cifar10 --workdir=W ... --processes=4

Every run has its own folder, WORKDIR/STUDY/RUN/SEED, and its output beside it. What is
finished is skipped and what was interrupted goes on where it was, so the same command
serves until all is done. `experiments.tables.update` makes the page from the folders.

With `--processes=N` runs share one accelerator: each gets 0.9 / N of a GPU's memory, or
the N-th part of `XLA_PYTHON_CLIENT_MEM_FRACTION` if this is set. A TPU belongs to one
process at a time. A run that fails does not stop the others.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.studies import catalogue
from experiments.studies import estimates
from experiments.studies import launches
from experiments.studies import progress_lines
from experiments.studies import spec
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import places

COMMAND = (sys.executable, "-m", "flowkd_jax", "train")
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the driver."""

  study: str = fields.setting(
    "cifar10", f"Study to run: {', '.join(catalogue.STUDIES)}."
  )
  runs: tuple[str, ...] = fields.setting(
    (), "Runs of the study, by name. Without the flag: all."
  )
  seeds: tuple[str, ...] = fields.setting(("0", "1", "2"), "Seeds of every run.")
  workdir: str = fields.setting(
    "runs",
    "Folder in which every run gets a folder STUDY/RUN/SEED.",
    place=places.NEW_FOLDER,
  )
  data_dir: str = fields.setting(
    "data",
    "Folder in which tensorflow-datasets are prepared.",
    place=places.PERHAPS_FOLDER,
  )
  auxiliary_checkpoint: str = fields.setting(
    "",
    "File of the authors' PyTorch weights (.npz), for studies that start from"
    " their auxiliary.",
    place=places.FILE,
  )
  processes: int = fields.setting(
    1,
    "Number of runs at the same time, each with its share of this machine's cores and"
    " of a GPU's memory.",
    least=1,
  )
  dry_run: bool = fields.setting(
    False,
    "Print the commands that are left to do, and run none; for runs of the job distill "
    "with an estimate of their time on the device at hand.",
  )


def configure(**given: Any) -> Config:
  """Settings, with those that are given.

  Raises:
    ValueError: If a study, a run or a number cannot be right.
  """
  config = fields.configured(Config, given)
  limits.check_choice("--study", config.study, tuple(catalogue.STUDIES))
  names = [run.name for run in catalogue.STUDIES[config.study].launches]
  for name in config.runs:
    limits.check_choice("--runs", name, names)
  for seed in config.seeds:
    # 01 would have a folder of its own beside 1, for the same run.
    if not (seed.isdecimal() and seed == str(int(seed))):
      raise ValueError(f"--seeds: expected numbers such as 0,1,2, got {seed!r}")
    limits.check_number("--seeds", int(seed), limits.Limits(least=0))
  flags = " ".join(flag for run in _runs(config) for flag in run.flags)
  if config.auxiliary_checkpoint:
    imported_weights.read("--auxiliary_checkpoint", config.auxiliary_checkpoint)
  if "{auxiliary_checkpoint}" in flags and not config.auxiliary_checkpoint:
    raise ValueError(
      "--auxiliary_checkpoint: expected a .npz of PyTorch weights of the authors' "
      "auxiliary, from which this study starts, got none"
    )
  return config


def run(config: Config) -> None:
  """Launches what is not finished.

  Raises:
    Interrupted: If it was asked to stop; every run has saved its state.
    ValueError: If runs have failed, when all others are finished.
  """
  wanted = jobs(config)
  left = [job for job in wanted if not job.is_done]
  if config.dry_run:
    _print_commands(left)
    return
  launches.memory_share(config.processes)  # an impossible one is refused before
  total = len(wanted)
  shown = progress_lines.ProgressLines(
    f"study {config.study}", total, total - len(left)
  )
  with train.stop_on_signals() as should_stop, shown:
    failed = _launch(left, config.processes, total, should_stop, shown)
    name = should_stop()
  if name:
    raise train.Interrupted(name, sum(job.is_done for job in wanted))
  if failed:
    raise ValueError(
      f"{len(failed)} of {total} runs failed: "
      f"{', '.join(str(job.folder) for job in failed)}; see the .log beside each"
    )
  shown.say(f"{total} runs are finished in {Path(config.workdir) / config.study}")


def _print_commands(left: list[launches.Job]) -> None:
  """Prints commands; before each that distils its time on the device at hand."""
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
  """Runs launches, `processes` at the same time; returns those that failed."""
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
      lines = {each.job.name: each.last_line for each in running}
      shown.update(total - len(left) - len(running), lines)
  finally:  # whatever ended the loop, no launch is left alone
    for job in launches.stop(running):
      shown.say(f"failed while it was stopped: {job.folder}, see {job.log}")
  return failed


def jobs(config: Config) -> list[launches.Job]:
  """All launches, seed by seed, so that every row has a number early."""
  places = {name: getattr(config, name) for name in spec.PLACEHOLDERS}
  root = Path(config.workdir).absolute() / config.study
  places["workdir"] = str(root)
  result = []
  for number, seed in enumerate(config.seeds):
    for each in _runs(config):
      if each.seeds is not None and number >= each.seeds:
        continue
      folder = root / each.name / seed
      flags = [flag.format(**places, seed=seed) for flag in each.flags]
      command = [*COMMAND, each.job, *flags, "--verbosity=-1"]
      command += [f"--seed={seed}", f"--workdir={folder}"]
      result.append(launches.Job(folder, command))
  return result


def _runs(config):
  wanted = catalogue.STUDIES[config.study].launches
  return [each for each in wanted if not config.runs or each.name in config.runs]


if __name__ == "__main__":
  launch.launch(Config, configure, run)

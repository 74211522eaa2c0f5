r"""Runs the studies behind the results page: many launches, one after the other.

    python -m experiments.studies.run --study=cifar10 --workdir=W --data_dir=D \
        --auxiliary_checkpoint=FILE.npz
    python -m experiments.studies.run --study=cifar10 --workdir=W ... --dry_run

Every run has its own folder, WORKDIR/STUDY/RUN/SEED, and its output beside it. What is
finished is skipped and what was interrupted goes on where it was, so the same command
serves until all is done. `experiments.tables.update` makes the page from the folders.
"""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from typing import NamedTuple

from experiments.studies import catalogue
from experiments.studies import spec
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import places
from flowkd_jax.jobs import stages

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
  jobs: int = fields.setting(
    1,
    "Number of runs at the same time, each on its share of this machine's cores.",
    least=1,
  )
  dry_run: bool = fields.setting(
    False, "Print the commands that are left to do, and run none."
  )


class Job(NamedTuple):
  """One launch: its folder and its command."""

  folder: Path
  command: list[str]

  @property
  def is_done(self) -> bool:
    """True if the run has left its results."""
    return (self.folder / stages.RESULTS).exists()


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
  """Launches what is not finished; raises Interrupted when asked to stop."""
  progress = train.Progress()
  left = [job for job in jobs(config) if not job.is_done]
  if config.dry_run:
    for job in left:
      print(shlex.join(job.command))
    return
  total = len(jobs(config))
  running: dict[subprocess.Popen, tuple[Job, int]] = {}
  free = list(range(config.jobs))
  failed = []
  progress.start(f"study {config.study}", total, total - len(left))
  with train.stop_on_signals() as should_stop:
    while (left or running) and not should_stop():
      while left and free:
        job, slot = left.pop(0), free.pop()
        running[_start(job, slot, config.jobs)] = job, slot
      time.sleep(_POLL_SECONDS)
      for process in [process for process in running if process.poll() is not None]:
        job, slot = running.pop(process)
        free.append(slot)
        if process.returncode or not job.is_done:
          failed.append(job)
          progress.say(f"failed: {job.folder}, see {_log(job)}")
        progress.update(total - len(left) - len(running))
    name = should_stop()
    _stop(running)
  progress.stop()
  if name:
    raise train.Interrupted(name, total - len(left) - len(running))
  if failed:
    raise ValueError(
      f"{len(failed)} of {total} runs failed: "
      f"{', '.join(str(job.folder) for job in failed)}; see the .log beside each"
    )
  progress.say(f"{total} runs are finished in {Path(config.workdir) / config.study}")


def jobs(config: Config) -> list[Job]:
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
      result.append(Job(folder, command))
  return result


def _runs(config):
  wanted = catalogue.STUDIES[config.study].launches
  return [each for each in wanted if not config.runs or each.name in config.runs]


def _log(job):
  return job.folder.with_suffix(".log")


def _start(job, slot, slots):
  """Starts a launch on its share of the cores, so that none waits for another's."""
  job.folder.parent.mkdir(parents=True, exist_ok=True)
  with _log(job).open("a") as log:
    process = subprocess.Popen(
      job.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
  if hasattr(os, "sched_setaffinity") and slots > 1:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process.pid, cores[slot % len(cores) :: slots])
  return process


def _stop(running):
  """Asks the launches to save and waits until they have."""
  for process in running:
    process.send_signal(signal.SIGTERM)
  for process in running:
    process.wait()


if __name__ == "__main__":
  launch.launch(Config, configure, run)

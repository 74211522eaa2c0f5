"""Test that killed and resumed runs end like an uninterrupted run.

A network is trained on the digits in a process of its own, once without interruption.
Then the same command is started, killed after a random time and started again until it
ends; this is repeated until as many processes have been killed as wanted. Every
finished run must have the same network, bit for bit, and no process may fail. Otherwise
the exit status is 1.

    python -m experiments.benchmarks.kills --kills=50

Run it by hand after changes to storing or resuming.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import stages

STAGE = "student_labels"
NETWORK = "digits_cnn:2"
FLAGS = (
  "--dataset=digits",
  f"--stages={STAGE}",
  f"--student_network={NETWORK}",
  "--batch_size=200",
  "--flow_examples=200",
  "--measure=flow",
  "--nodiagnostics",
)
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the check."""

  kills: int = fields.setting(50, "Processes that are stopped by a signal.", least=1)
  signals: tuple[str, ...] = fields.setting(
    ("SIGKILL",),
    "Signals to choose from at random.",
    choices=SIGNALS,
  )
  epochs: int = fields.setting(120, "Epochs of the training.", least=1)
  checkpoint_seconds: float = fields.setting(
    0.2, "Seconds between checkpoints of the training.", least=0
  )
  seed: int = fields.setting(
    0, "Seed of the moments at which processes are stopped.", least=0
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a setting cannot be right.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Train, kill, compare and print; exit with 1 if a run ends differently."""
  rng = np.random.default_rng(config.seed)
  kills = runs = wrong = 0
  with tempfile.TemporaryDirectory() as folder:
    finish(config, Path(folder) / "compiled_by")
    expected, seconds = finish(config, Path(folder) / "whole")
    print(
      f"a whole run saves first after {seconds[0]:.1f} s and ends {seconds[1]:.1f} s "
      "later",
      flush=True,
    )
    while kills < config.kills:
      parts = Path(folder) / "parts"
      shutil.rmtree(parts, ignore_errors=True)
      while kills < config.kills and not stages.is_done(parts, STAGE):
        name = str(rng.choice(config.signals))
        kills += interrupt(config, parts, name, seconds, rng)
        print(f"{kills} stopped, {_progress(parts)}", flush=True)
      variables, _ = finish(config, parts)
      same = _equal(variables, expected)
      runs += 1
      wrong += not same
      how = "like" if same else "UNLIKE"
      print(f"run {runs} ended {how} the whole run", flush=True)
  print(f"{kills} processes were stopped in {runs} runs; {wrong} runs ended otherwise")
  if wrong:
    sys.exit(1)


def interrupt(
  config: Config,
  workdir: Path,
  name: str,
  seconds: tuple[float, float],
  rng: np.random.Generator,
) -> bool:
  """Starts the training and stops it; returns whether it was still alive.

  One in five is stopped while it starts, the others after they have saved something.

  Args:
    config: Settings of the check.
    workdir: Work directory of the training.
    name: Name of the signal.
    seconds: Time to the first checkpoint of a run, and from there to its end.
    rng: Source of the moment.

  Raises:
    RuntimeError: If the training fails by itself.
  """
  training = rng.random() > 0.2
  delay = rng.uniform(0, seconds[training])
  before = _steps(workdir)
  process, log = _start(config, workdir)
  if training:
    _wait_for_checkpoint(process, workdir, before)
  try:
    process.wait(timeout=delay)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.Signals[name])
    process.wait()
    _check(process, log, {-signal.Signals[name], 0, 130})
    return True
  _check(process, log, {0})
  return False


def finish(config: Config, workdir: Path) -> tuple[Any, tuple[float, float]]:
  """Runs the training to its end.

  Returns:
    The variables of the network, and the seconds to the first new checkpoint and from
    there to the end.
  """
  began = time.monotonic()
  before = _steps(workdir)
  process, log = _start(config, workdir)
  _wait_for_checkpoint(process, workdir, before)
  started = time.monotonic()
  process.wait()
  ended = time.monotonic()
  _check(process, log, {0})
  model = models.by_name(NETWORK, num_classes=10)
  network = train.network_in_workdir(workdir, STAGE, model, image_shape=(8, 8, 1))
  return network.variables, (started - began, max(ended - started, 1.0))


def _start(config, workdir):
  command = [sys.executable, "-m", "flowkd_jax", "train", "information_flow"]
  command += FLAGS
  command += [
    f"--workdir={workdir}",
    f"--{STAGE}_epochs={config.epochs}@1e-3",
    f"--checkpoint_seconds={config.checkpoint_seconds}",
  ]
  # What an earlier run has compiled is not compiled again.
  compiled = {
    "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  log = workdir.with_suffix(".log")
  with log.open("w") as file:
    process = subprocess.Popen(
      command, env={**os.environ, **compiled}, stdout=file, stderr=subprocess.STDOUT
    )
  return process, log


def _wait_for_checkpoint(process, workdir, before):
  """Returns when the run has saved something new, or has ended."""
  while process.poll() is None and not _steps(workdir) - before:
    time.sleep(0.02)


def _steps(workdir):
  """Steps of the checkpoints that there are."""
  folder = workdir / STAGE / "checkpoints"
  return {int(path.name) for path in folder.glob("*") if path.name.isdigit()}


def _check(process, log, statuses):
  output = log.read_text()
  if process.returncode not in statuses or "Traceback" in output:
    raise RuntimeError(f"the training ended with {process.returncode}: {output}")


def _progress(workdir):
  if stages.is_done(workdir, STAGE):
    return "stage done"
  steps = _steps(workdir)
  return f"checkpoint of step {max(steps)}" if steps else "no checkpoint yet"


def _equal(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


if __name__ == "__main__":
  launch.launch(Config, configure, run)

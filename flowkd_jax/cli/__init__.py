"""Command `flowkd`. Only this room reads the command line.

    flowkd train JOB --dataset=digits --workdir=W
    flowkd taps --network=resnet18
    flowkd doctor --dataset=digits --workdir=W
    flowkd doctor distill --dataset=digits --workdir=W --losses=kd,pkt
    flowkd report W

JAX is imported only after the command has been found, so that `flowkd --help` and
`flowkd --version` answer at once.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from typing import NoReturn

from flowkd_jax import __version__
from flowkd_jax import _extra
from flowkd_jax import jobs
from flowkd_jax.cli import overview

COMMANDS = {
  "train": "run a training job in a work directory; `flowkd train` lists the jobs",
  "taps": "list the activations of a network that can be distilled",
  "doctor": "check flags, data, devices and teacher before a long run",
  "report": "write one HTML page that compares work directories",
  "help": "show the flags of a command or job, as --help does",
}
_HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")
# Commands other than `train`: the module in `flowkd_jax.jobs`, and the setting that
# takes arguments without dashes, if any.
_TOOLS = {
  "taps": ("taps", None),
  "doctor": ("doctor", None),
  "report": ("report_page", "workdirs"),
}


def main(arguments: Sequence[str] | None = None) -> None:
  """Run the command that the arguments name.

  Exit status: 0 after help or a successful command; 2 if there is no such command or
  job, or if the extra `flowkd_jax[train]` is not installed; otherwise the exit status
  of `launch.launch`.
  """
  given = sys.argv[1:] if arguments is None else arguments
  try:
    _run([*given] or ["--help"])
  except BrokenPipeError:  # the reader stopped early, as in `flowkd --help | head`
    # At exit the interpreter would flush the rest and print an error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> None:
  command, *rest = arguments
  if command in ("--version", "-version"):
    print(f"flowkd_jax {__version__}")
    return
  if lacking := _extra.missing(_extra.COMMANDS):
    _refuse(_extra.advice("flowkd", lacking))
  while command == "help":  # `flowkd help train JOB` is `flowkd train JOB --help`.
    command, *rest = [*rest, "--help"]
  if command in _HELP:
    overview.show_commands(COMMANDS, __version__)
  elif command == "train":
    _train(rest)
  elif command == "doctor" and rest and not rest[0].startswith("-"):
    _start_doctor(*rest)
  elif command in _TOOLS:
    _start_tool(command, rest)
  else:
    _refuse_unknown("command", command, COMMANDS)


def train(job: str, arguments: Sequence[str] | None = None) -> None:
  """Run a training job with the flags of the command line."""
  from flowkd_jax.cli import launch

  module = jobs.load(job)
  launch.launch(
    module.Config,
    module.configure,
    module.run,
    program=f"flowkd train {job}",
    presets=_presets(module),
    several_hosts=True,
    compiles=True,
    arguments=arguments,
  )


def _train(arguments: Sequence[str]) -> None:
  if not arguments or arguments[0] in _HELP:
    overview.show_jobs(jobs.JOBS)
    return
  job, *rest = arguments
  if job not in jobs.JOBS:
    _refuse_unknown("job", job, jobs.JOBS)
  train(job, rest)


def _start_tool(command: str, arguments: Sequence[str]) -> None:
  from flowkd_jax.cli import launch

  name, positional = _TOOLS[command]
  module = importlib.import_module(f"flowkd_jax.jobs.{name}")
  launch.launch(
    module.Config,
    module.configure,
    module.run,
    program=f"flowkd {command}",
    presets=_presets(module),
    positional=positional,
    compiles=command == "doctor",
    arguments=arguments,
  )


def _start_doctor(job: str, *arguments: str) -> None:
  """Start the doctor with the flags of a job."""
  from flowkd_jax.cli import launch
  from flowkd_jax.jobs import doctor

  if job not in doctor.JOBS:
    _refuse_unknown("job that the doctor knows", job, doctor.JOBS)
  module = doctor.JOBS[job]
  launch.launch(
    module.Config,
    module.configure,
    doctor.run,
    program=f"flowkd doctor {job}",
    presets=_presets(module),
    compiles=True,
    arguments=arguments,
  )


def _presets(module: ModuleType) -> dict[str, Mapping[str, Any]]:
  """Settings that a data set or a recipe changes, by the flag that selects it."""
  found = {}
  for flag, name in (("dataset", "PRESETS"), ("recipe", "RECIPES")):
    for value, settings in getattr(module, name, {}).items():
      found[f"--{flag}={value}"] = settings
  return found


def _refuse_unknown(kind: str, name: str, known: Mapping[str, Any]) -> NoReturn:
  """Print the known names and exit with status 2."""
  close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
  hint = f"; did you mean {close[0]}?" if close else ""
  _refuse(f"expected a {kind}, one of {', '.join(known)}, got {name!r}{hint}")


def _refuse(text: str) -> NoReturn:
  print(f"error: {text}", file=sys.stderr)
  sys.exit(2)


__all__ = ["COMMANDS", "main", "train"]

"""The command `flowkd`, the only place that knows the command line."""

import importlib
import sys
from collections.abc import Sequence

from flowkd_jax import jobs
from flowkd_jax.cli import launch


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command that the arguments name."""
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  command, *rest = arguments
  if command == "train":
    job, *rest = rest
    train(job, rest)
  elif command in ("doctor", "taps", "report"):
    name = {"report": "report_page"}.get(command, command)
    module = importlib.import_module(f"flowkd_jax.jobs.{name}")
    launch.launch(module.Config, module.configure, module.run, arguments=rest)


def train(job: str, arguments: Sequence[str] | None = None) -> None:
  """Runs a training job with the flags of the command line."""
  module = jobs.load(job)
  launch.launch(
    module.Config,
    module.configure,
    module.run,
    several_hosts=True,
    arguments=arguments,
  )


__all__ = ["main", "train"]

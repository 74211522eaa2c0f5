"""Lists of commands and jobs, printed without loading JAX or a job."""

import shutil
import textwrap
from collections.abc import Mapping

__all__ = [
  "show_commands",
  "show_jobs",
]


def show_commands(commands: Mapping[str, str], version: str) -> None:
  """Print the commands of `flowkd`.

  Args:
    commands: Description of each command, by its name.
    version: Version of the package.
  """
  print(f"flowkd_jax {version}: knowledge distillation by information-flow matching\n")
  print("usage: flowkd COMMAND [--flag=value ...]\n")
  _print_entries("commands", commands)
  print("\nFlags of a command: flowkd COMMAND --help. Version: flowkd --version.")
  print("First run: flowkd train information_flow --dataset=digits --workdir=W")


def show_jobs(jobs: Mapping[str, str]) -> None:
  """Prints the jobs of `flowkd train`.

  Args:
    jobs: Description of each job, by its name.
  """
  print("usage: flowkd train JOB --workdir=W [--flag=value ...]\n")
  _print_entries("jobs", jobs)
  print("\nFlags of a job: flowkd train JOB --help.")
  print("First run: flowkd train information_flow --dataset=digits --workdir=W")


def _print_entries(title: str, entries: Mapping[str, str]) -> None:
  print(f"{title}:")
  width = max(map(len, entries)) + 4
  columns = max(shutil.get_terminal_size().columns, width + 30)
  for name, text in entries.items():
    print(
      textwrap.fill(
        text,
        columns,
        initial_indent=f"  {name}".ljust(width),
        subsequent_indent=" " * width,
      )
    )

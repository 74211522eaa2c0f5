"""Modules that a command line starts: each has `Config`, `configure` and `run`."""

import importlib
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def _found() -> dict[str, str]:
  """Dotted names by the last part, which is a job's or a script's name."""
  folders = (ROOT / "flowkd_jax" / "jobs", ROOT / "experiments")
  names = {}
  for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
    if re.search(r"^def run\(config: ", path.read_text(), re.MULTILINE):
      name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
      names[name.removeprefix("flowkd_jax.").removeprefix("experiments.")] = name
  return names


MODULES = _found()
# `doctor` has the flags of `information_flow`, so that one command line serves both.
LAUNCHERS = tuple(name for name in MODULES if name != "jobs.doctor")


def load(name: str):
  """Imports a launcher by its name."""
  return importlib.import_module(MODULES[name])

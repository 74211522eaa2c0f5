"""Environment of a run: command, versions, machine and commit."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import flowkd_jax
from flowkd_jax import _files
from flowkd_jax import parallel

__all__ = [
  "CPU_INFO",
  "FILE",
  "commit",
  "device_bytes",
  "environment",
  "keep",
]

FILE = "environment.json"

CPU_INFO = Path("/proc/cpuinfo")  # Linux only


def environment() -> dict[str, Any]:
  """Command, versions, devices, processor and commit of this run."""
  device = jax.local_devices()[0]
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
  return {
    "command": _command(sys.argv),
    "commit": commit(),
    "flowkd_jax": flowkd_jax.__version__,
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")},
    "device": f"{jax.device_count()} x {device.device_kind}",
    "processor": _processor(),
    "cores": cores or os.cpu_count(),
  }


def keep(workdir: Path, job: str) -> None:
  """Writes the environment of the latest start of a job into its work directory.

  The results of a stage have the environment that it was finished in; until then
  this file tells about it.

  Args:
    workdir: The work directory.
    job: Name of the job.
  """
  _files.write_json(workdir / FILE, {"job": job, **environment()})


def device_bytes() -> int | None:
  """Memory of a device in bytes, None if unknown. CPU devices share the machine's."""
  return parallel.device_bytes()


def _command(arguments: Sequence[str]) -> str:
  """Command as the user types it: `flowkd ...` or `python FILE ...`."""
  path = Path(arguments[0])
  installed = path.stem == "flowkd"
  as_module = path.name == "__main__.py" and path.parent.name == "flowkd_jax"
  if installed or as_module:
    return shlex.join(["flowkd", *arguments[1:]])
  return shlex.join(["python", *arguments])


def _processor() -> str:
  """Name of the processor. Results depend on its rounding."""
  try:
    lines = CPU_INFO.read_text().splitlines()
  except OSError:
    lines = []
  named = [line for line in lines if line.startswith("model name")]
  return named[0].partition(":")[2].strip() if named else platform.processor()


def commit() -> str | None:
  """Commit that is checked out, with a + if files differ from it; None without git."""
  command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
  try:
    found = subprocess.run(
      command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return None  # an installed copy, or a machine without git
  return found.stdout.strip()

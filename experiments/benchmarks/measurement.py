"""Timing and reporting that all benchmarks share.

Programs take turns in one process, round by round, so that a change in the machine's
speed affects all of them. Results are the median and range over rounds, and ratios
computed in each round.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import tabulate

from flowkd_jax import _files
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places

DEVICES = ("", "cpu", "gpu", "tpu")
# Ways to run PyTorch; the last needs CUDA.
MODES = EAGER, COMPILED, REDUCED, GRAPH = (
  "eager",
  "compiled",
  "reduce-overhead",
  "CUDA graph",
)
WARM_UP = 3

# Each call runs a program once and waits for its results.
Program = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings that benchmarks share."""

  device: str = fields.setting(
    "",
    "Device that all programs run on, PyTorch's too. Without the flag: the fastest that"
    " JAX finds.",
    choices=DEVICES,
  )
  json: str = fields.setting(
    "", "JSON file for the measured numbers.", place=places.NEW_FILE
  )


@dataclasses.dataclass(frozen=True)
class TorchConfig(Config):
  """Settings of benchmarks that compare with PyTorch."""

  torch_modes: tuple[str, ...] = fields.setting(
    MODES,
    "Ways to run PyTorch, as far as the device has them: a CUDA graph needs CUDA.",
    choices=MODES,
  )


@dataclasses.dataclass(frozen=True)
class TurnsConfig(Config):
  """Settings of benchmarks whose programs take turns."""

  rounds: int = fields.setting(7, "Turns that each program gets.", least=1)
  steps: int = fields.setting(20, "Timed steps in a turn.", least=1)
  seed: int = fields.setting(0, "Seed of images and weights.", least=0)


def use_device(name: str) -> Any:
  """The device of a benchmark; call it before anything else uses JAX.

  Args:
    name: One of `DEVICES`; "" for the fastest that JAX finds.

  Raises:
    ValueError: If JAX has no such device.
  """
  # PyTorch needs memory of the same GPU, which JAX would take as a whole.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  if name == "cpu":  # a GPU that is not used would still give its memory
    jax.config.update("jax_platforms", "cpu")
  device = jax.local_devices()[0]
  if name and device.platform != name:
    raise ValueError(
      f"--device: expected a device that JAX can use, got {name!r}, and JAX has "
      f"{device.platform}; install JAX for it, for example "
      '"jax[cuda13]", or choose another device'
    )
  return device


def check_torch() -> None:
  """Raises ValueError unless PyTorch is installed."""
  if importlib.util.find_spec("torch") is None:
    raise ValueError(
      "PyTorch is not installed, and this benchmark compares with it: run "
      '`make bench`, or pip install "flowkd_jax[benchmark]"'
    )


def environment(*, torch: bool = False) -> dict[str, Any]:
  """Device and versions.

  Args:
    torch: True if PyTorch takes part.

  Raises:
    ValueError: If PyTorch takes part and is not installed.
  """
  if torch:
    check_torch()
  device = jax.local_devices()[0]
  found = {
    "device": device.device_kind,
    "platform": device.platform,
    "cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "python": platform.python_version(),
    "jax": importlib.metadata.version("jax"),
    "jaxlib": importlib.metadata.version("jaxlib"),
  }
  return {**found, "torch": importlib.metadata.version("torch")} if torch else found


def in_turns(
  programs: Mapping[str, Program], *, rounds: int, steps: int
) -> dict[str, list[float]]:
  """Median seconds of a call in each round, programs taking turns.

  Each program is called a few times before, because the first calls compile. It is also
  called once at the start of its turn without timing, to absorb the effects of the
  previous program on caches and threads.
  """
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for program in programs.values():
    for _ in range(WARM_UP):
      program()
  for _ in range(rounds):
    for name, program in programs.items():
      program()
      seconds[name].append(statistics.median(timed(program) for _ in range(steps)))
  return seconds


def timed(program: Program) -> float:
  """Seconds of one call."""
  began = time.perf_counter()
  program()
  return time.perf_counter() - began


def spread(values: Sequence[float], *, factor: float = 1.0) -> str:
  """Median and range, with three digits; empty if there are no values."""
  if not values:
    return ""
  scaled = [factor * value for value in values]
  return f"{statistics.median(scaled):.3g} ({min(scaled):.3g} to {max(scaled):.3g})"


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
  """Ratios round by round; none if one of the two was not measured."""
  return [a / b for a, b in zip(numerators, denominators, strict=False)]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in GitHub's Markdown, aligned for terminals too."""
  return tabulate.tabulate(
    rows, headings, tablefmt="github", disable_numparse=True, colalign=("left",)
  )


def heading(environment: Mapping[str, Any], *details: str) -> str:
  """One line that says what was measured where."""
  return ", ".join(
    [*(f"{name} {value}" for name, value in environment.items()), *details]
  )


def summary(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
  """Median, range and all rounds of each program, in seconds, for JSON."""
  return {
    name: {
      "median": statistics.median(values),
      "least": min(values),
      "greatest": max(values),
      "rounds": [*values],
    }
    for name, values in seconds.items()
    if values
  }


def write(
  config: Config, environment: Mapping[str, Any], results: Mapping[str, Any]
) -> None:
  """Writes settings, environment and results to `--json`, if it was given."""
  if not config.json:
    return
  content = {
    "settings": dataclasses.asdict(config),
    "environment": environment,
    **results,
  }
  _files.write_text(config.json, json.dumps(content, indent=1) + "\n")

"""Ways to run a PyTorch program: eager, compiled, and as a CUDA graph.

PyTorch is fastest when compiled, on a GPU with the whole step in one CUDA graph. Every
program waits for the device, so that the time of the work is measured and not the time
of its launch. Only these benchmarks need PyTorch.
"""

import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import torch

from experiments.benchmarks.measurement import EAGER
from experiments.benchmarks.measurement import GRAPH
from experiments.benchmarks.measurement import MODES
from experiments.benchmarks.measurement import REDUCED

# Calls before a step is captured: the first allocate what later calls reuse.
_BEFORE_CAPTURE = 3


def device_for(platform: str) -> torch.device:
  """The device of PyTorch that is also JAX's.

  Args:
    platform: "cpu" or "gpu", as JAX calls it.

  Raises:
    ValueError: If PyTorch cannot use that device.
  """
  if platform == "cpu":
    return torch.device("cpu")
  if platform == "gpu" and torch.cuda.is_available():
    return torch.device("cuda")
  raise ValueError(
    f"expected a device that PyTorch can use too, got {platform}, and PyTorch "
    f"{torch.__version__} has no support for it here; install PyTorch for it, or pass "
    "--device=cpu"
  )


def modes(device: torch.device, wanted: Sequence[str] = MODES) -> list[str]:
  """The wanted ways that a device has. A CUDA graph needs CUDA.

  On a CPU "reduce-overhead" is compiled like "compiled": what it adds are CUDA graphs.

  Raises:
    ValueError: If the device has none of them.
  """
  found = [mode for mode in wanted if mode != GRAPH or device.type == "cuda"]
  if not found:
    raise ValueError(
      f"--torch_modes: expected a way that {device.type} has, such as {EAGER}, got "
      f"{', '.join(wanted) or 'none'}"
    )
  return found


def set_up(seed: int = 0) -> None:
  """Seeds PyTorch and gives it all cores that this process may use."""
  torch.manual_seed(seed)
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
  torch.set_num_threads(cores or os.cpu_count() or 1)


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
  """The function as a mode runs it.

  For a CUDA graph it is compiled without graphs of its own, as the whole step is
  captured. Each size of the arguments gets a program of its own, as in JAX.
  """
  if mode == EAGER:
    return function
  if mode == REDUCED:
    return torch.compile(function, mode=REDUCED, dynamic=False)
  return torch.compile(function, dynamic=False)


def program(
  step: Callable[[], object], mode: str, device: torch.device
) -> Callable[[], None]:
  """A function that runs a step to its end.

  Args:
    step: The whole step: forward, backward and, if there is one, the optimizer. Its
      tensors lie on the device and stay the same from call to call.
    mode: One of `modes(device)`.
    device: Device of PyTorch.
  """
  if device.type != "cuda":
    return lambda: _discard(step())
  if mode != GRAPH:
    return lambda: _run_to_end(step, device)
  graph = _captured(step)
  return lambda: _run_to_end(graph.replay, device)


def _captured(step: Callable[[], object]) -> "torch.cuda.CUDAGraph":
  # Compiling, and the first allocations, must not be captured; warming up has to take
  # place on another stream than the usual one.
  stream = torch.cuda.Stream()
  stream.wait_stream(torch.cuda.current_stream())
  with torch.cuda.stream(stream):
    for _ in range(_BEFORE_CAPTURE):
      step()
  torch.cuda.current_stream().wait_stream(stream)
  graph = torch.cuda.CUDAGraph()
  with torch.cuda.graph(graph):
    step()
  return graph


def _run_to_end(step: Callable[[], object], device: torch.device) -> None:
  step()
  torch.cuda.synchronize(device)


def _discard(result: object) -> None:
  del result

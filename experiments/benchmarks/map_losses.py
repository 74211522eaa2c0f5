"""Losses on maps: speed against PyTorch.

    python -m experiments.benchmarks.map_losses

Forward and backward, gradient in the student, maps and learnt parameters on the device.
Channels are last here and first in PyTorch, as both are used. Programs take turns,
round by round, in one process. Prints markdown. Needs PyTorch, which runs eagerly,
compiled, and on a GPU also as CUDA graphs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import losses as pair_losses
from experiments.benchmarks import measurement
from flowkd_jax import _files
from flowkd_jax import losses
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places


def _layers(maps: jax.Array) -> list[jax.Array]:
  """Two layers, the second with a quarter of the positions."""
  return [maps, maps[:, ::2, ::2]]


def _generated(student, teacher, params):
  kept, layers = params
  return losses.mgd(student, teacher, params=layers, kept=kept)


def _without_parameters(loss):
  return lambda student, teacher, params: loss(student, teacher)


# `(student, teacher, parameters) -> loss`, parameters from the function after it.
LOSSES: dict[str, Callable[..., jax.Array]] = {
  "channel_wise_distillation": _without_parameters(losses.channel_wise_distillation),
  "ickd": _without_parameters(losses.ickd),
  "cosine_regression": _without_parameters(losses.cosine_regression),
  "normalized_regression": _without_parameters(losses.normalized_regression),
  "gaussian_wasserstein": _without_parameters(losses.gaussian_wasserstein),
  "hierarchical_context": _without_parameters(losses.hierarchical_context),
  "kdsvd": lambda s, t, params: losses.kdsvd(_layers(s), _layers(t)),
  "mgd": _generated,
  "review_kd": lambda s, t, params: losses.review_kd(
    _layers(s), _layers(t), params=params
  ),
}


def parameters(name: str, shape: tuple[int, ...]) -> Any:
  """Learnt parameters of a loss, and the mask of `mgd`; None if it has none.

  Args:
    name: One of `LOSSES`.
    shape: Shape of the maps.
  """
  key = jax.random.key(0)
  if name == "mgd":
    kept = np.random.default_rng(0).random(shape[:3]) > 0.65
    return kept, losses.mgd_init(key, shape, shape)
  if name == "review_kd":
    return losses.review_kd_init(key, [shape] * 2, [shape] * 2)
  return None


@dataclasses.dataclass(frozen=True)
class Config(measurement.TorchConfig):
  """Settings of the benchmark."""

  losses: tuple[str, ...] = fields.setting(
    tuple(LOSSES), "Losses to measure.", choices=tuple(LOSSES)
  )
  batch: int = fields.setting(64, "Number of examples.", least=1)
  sides: tuple[int, ...] = fields.setting(
    (8, 32), "Heights and widths of the maps.", least=2
  )
  channels: int = fields.setting(64, "Channels of both maps.", least=1)
  rounds: int = fields.setting(5, "Turns that each program gets.", least=1)
  turn_seconds: float = fields.setting(
    1.0, "Duration of a turn in seconds; a turn has at least one run.", least=0
  )
  cell_seconds: float = fields.setting(
    120.0, "Seconds after which a table cell gets no further rounds.", least=0
  )
  seed: int = fields.setting(0, "Seed of the maps.", least=0)
  output: str = fields.setting(
    "", "File that gets a copy of what is printed.", place=places.NEW_FILE
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a number is too small or a name unknown.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Measures and prints."""
  device = measurement.use_device(config.device)
  measurement.check_torch()
  from experiments.benchmarks import torch_modes

  torch_device = torch_modes.device_for(device.platform)
  modes = torch_modes.modes(torch_device, config.torch_modes)
  environment = measurement.environment(torch=True)
  details = f"up to {config.rounds} rounds, median (range)", f"seed {config.seed}"
  rows, records = [], []
  for name in config.losses:
    for side in config.sides:
      programs = _programs(name, side, config, modes, torch_device)
      measured = pair_losses.measure([*programs.values()], config)
      seconds = dict(zip(programs, measured, strict=True))
      best = min((seconds[mode] for mode in modes), key=pair_losses.median)
      cells = [measurement.spread(each, factor=1000) for each in measured]
      ratio = measurement.ratios(best, seconds["flowkd_jax"])
      rows.append([name, str(side), *cells, measurement.spread(ratio)])
      summary = measurement.summary(seconds)
      records.append({"loss": name, "side": side, "seconds": summary})
  headings = ["loss", "side", "flowkd_jax", *modes, "PyTorch / flowkd_jax"]
  text = (
    f"{measurement.heading(environment, *details)}\n\n{config.batch} maps of "
    f"{config.channels} channels; milliseconds; ratios are of the fastest way of "
    f"PyTorch\n\n{measurement.table(headings, rows)}"
  )
  print(text, flush=True)
  measurement.write(config, environment, {"speed": records})
  if config.output:
    _files.write_text(config.output, text + "\n")


def _programs(name, side, config, modes, torch_device):
  from experiments.benchmarks import torch_map_losses

  shape = (config.batch, side, side, config.channels)
  rng = np.random.default_rng(config.seed)
  maps = [rng.standard_normal(shape, np.float32) for _ in range(2)]
  params = parameters(name, shape)
  function = jax.jit(jax.value_and_grad(LOSSES[name])).lower(*maps, params).compile()
  on_device = jax.device_put((*maps, params))
  programs = {
    "flowkd_jax": lambda: jax.block_until_ready(function(*on_device)),
    **{
      mode: torch_map_losses.program(
        name, maps[0], maps[1], params, mode=mode, device=torch_device
      )
      for mode in modes
    },
  }
  return {each: pair_losses.Program(run, 0.0) for each, run in programs.items()}


if __name__ == "__main__":
  launch.launch(Config, configure, run)

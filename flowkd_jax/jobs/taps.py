"""Lists what a network offers to distillation: every tap, its shape and its cost.

    flowkd taps --network=cnn1:16
    flowkd taps --network=mine.models:make_vit --image_size=224

Nothing is computed. A network is one of ours by name, or `MODULE:FUNCTION`, where the
function makes a Linen module that is called with images and `train`, or returns what
`capture.from_nnx` or `capture.from_equinox` return.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from rich import box
from rich import console as rich_console
from rich import table as rich_table
from rich import text as rich_text

from flowkd_jax import capture
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import networks

__all__ = [
  "Config",
  "configure",
  "run",
  "tap_table",
]


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the listing."""

  network: str = fields.setting("cnn1:16", f"Network: {networks.DESCRIPTION}.")
  image_size: int = fields.setting(
    32, "Height and width of the images, in pixels.", least=1
  )
  channels: int = fields.setting(3, "Number of channels of the images.", least=1)
  batch_size: int = fields.setting(
    128, "Rows (images) of a training step, for the costs.", least=1
  )


def configure(**given: Any) -> Config:
  """Settings, with those that are given.

  Raises:
    ValueError: If a number is below 1.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Prints the table."""
  size = config.image_size
  images = jax.ShapeDtypeStruct(
    (config.batch_size, size, size, config.channels), jnp.float32
  )
  try:
    networks.parameter_bytes(config.network, images.shape[1:])
    model = networks.by_name(config.network)
  except ValueError as error:
    text = str(error).removeprefix("network: ")
    raise ValueError(f"--network: {text}") from error
  variables = jax.eval_shape(
    lambda key, x: capture.init(model, key, x), jax.random.key(0), images
  )
  table = tap_table(config, capture.list_taps(model, variables, images))
  console = rich_console.Console(highlight=False)
  if not console.is_terminal:  # In a file or a pipe no name is broken.
    wide = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
  console.print(table)


def tap_table(config: Config, taps: list[capture.Tap]) -> rich_table.Table:
  """One row per tap: name, kind, shape of a row, dtype, memory and operations."""
  rows = config.batch_size
  table = rich_table.Table(
    # Names of networks and taps are the user's, and no markup.
    title=rich_text.Text(
      f"Taps of {config.network}, images {config.image_size} x {config.image_size} x "
      f"{config.channels}"
    ),
    caption=f"Costs of a step of {rows} rows: operations of the forward pass up to the "
    "tap, memory of the tap, and operations of its matrix of inner products.",
    box=box.SIMPLE_HEAD,
    title_justify="left",
    caption_justify="left",
  )
  table.add_column("tap", overflow="fold")  # a name that is cut cannot be copied
  table.add_column("kind", no_wrap=True)
  for heading in ("row", "dtype", "MFLOP to it", "MiB", "MFLOP of pairs"):
    table.add_column(heading, justify="right", no_wrap=True)
  for tap in taps:
    table.add_row(
      rich_text.Text(tap.name),
      "sown" if tap.sown else "module",
      " x ".join(map(str, tap.shape[1:])),
      str(tap.dtype),
      f"{tap.row_flops * rows / 1e6:,.1f}",
      f"{tap.row_bytes * rows / 2**20:.2f}",
      f"{tap.pair_flops * rows**2 / 1e6:,.1f}",
    )
  return table

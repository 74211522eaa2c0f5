"""List of the activations of a network that can be distilled, with shapes and costs.

    flowkd taps --network=cnn1:16
    flowkd taps --network=resnet18 --format=csv
    flowkd taps --network=mine.models:make_vit --image_size=224

No activations are computed, only their shapes. A network is given by its name in this
package, or as `MODULE:FUNCTION`. The function returns a Linen module that is called
with images and `train`, or the result of `capture.from_nnx` or `capture.from_equinox`.
"""

import csv
import dataclasses
import json
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich import box
from rich import console as rich_console
from rich import padding as rich_padding
from rich import table as rich_table
from rich import text as rich_text

from flowkd_jax import capture
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import networks

__all__ = [
  "FORMATS",
  "Config",
  "configure",
  "rows",
  "run",
  "show_table",
  "tap_table",
  "write_csv",
]

FORMATS = ("table", "csv", "json")


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the listing."""

  network: str = fields.setting("cnn1:16", f"Network: {networks.DESCRIPTION}.")
  image_size: int = fields.setting(
    32, "Height and width of the images, in pixels.", least=1
  )
  channels: int = fields.setting(3, "Number of channels of the images.", least=1)
  batch_size: int = fields.setting(
    128, "Number of rows (images) in a training step, for the costs.", least=1
  )
  format: str = fields.setting(
    "table",
    "Output format: table for people; csv or json for programs, with exact numbers.",
    choices=FORMATS,
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a number is below 1.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Print the taps in the format of the settings."""
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
  taps = capture.list_taps(model, variables, images)
  if config.format == "csv":
    write_csv(taps, config.batch_size)
  elif config.format == "json":
    about = dataclasses.asdict(config)
    del about["format"]
    print(json.dumps({**about, "taps": rows(taps, config.batch_size)}, indent=2))
  else:
    show_table(config, taps, rich_console.Console(highlight=False))


def rows(taps: Sequence[capture.Tap], batch_size: int) -> list[dict[str, Any]]:
  """Properties of taps as plain values.

  Returns:
    For each tap: "tap" (name), "kind" ("sown" or "module"), "shape" (of a row) and
    "dtype". For a step of `batch_size` rows: "flops" (operations of the forward pass up
    to the tap), "bytes" (memory of the tap) and "pair_flops" (operations of its matrix
    of inner products).
  """
  return [
    {
      "tap": tap.name,
      "kind": "sown" if tap.sown else "module",
      "shape": list(tap.shape[1:]),
      "dtype": str(tap.dtype),
      "flops": tap.row_flops * batch_size,
      "bytes": tap.row_bytes * batch_size,
      "pair_flops": tap.pair_flops * batch_size**2,
    }
    for tap in taps
  ]


def write_csv(taps: Sequence[capture.Tap], batch_size: int) -> None:
  """Print `rows` as comma-separated values; a shape is written as 8x8x16."""
  writer = csv.writer(sys.stdout, lineterminator="\n")
  writer.writerow(("tap", "kind", "shape", "dtype", "flops", "bytes", "pair_flops"))
  for row in rows(taps, batch_size):
    writer.writerow({**row, "shape": "x".join(map(str, row["shape"]))}.values())


def show_table(
  config: Config, taps: Sequence[capture.Tap], console: rich_console.Console
) -> None:
  """Print a table without truncating names.

  In a file or a pipe every tap is one line of any length. On a terminal that is too
  narrow for the table, each name has a line of its own, which the terminal wraps.
  """
  table = tap_table(config, taps)
  unlimited = console.options.update(max_width=10**6)
  needed = console.measure(table, options=unlimited).maximum
  if not console.is_terminal:
    console.width = max(console.width, needed)
  if needed <= console.width:
    console.print(table)
    return
  console.print(rich_text.Text(_title(config)))
  for row in rows(taps, config.batch_size):
    console.print(rich_text.Text(row["tap"], style="bold"), soft_wrap=True)
    kind, shape, dtype, *costs = _cells(row)
    names = ("MFLOP to it", "MiB", "MFLOP of pairs")
    shown = [f"{cost} {name}" for cost, name in zip(costs, names, strict=True)]
    text = rich_text.Text(", ".join([kind, shape, dtype, *shown]))
    console.print(rich_padding.Padding(text, (0, 0, 0, 4), expand=False))
  console.print(rich_text.Text(_caption(config), style="italic"))


def tap_table(config: Config, taps: Sequence[capture.Tap]) -> rich_table.Table:
  """Table with one row per tap: name, kind, shape of a row, dtype and costs."""
  table = rich_table.Table(
    # As text: names come from the user, and brackets in them are not markup.
    title=rich_text.Text(_title(config)),
    caption=_caption(config),
    box=box.SIMPLE_HEAD,
    title_justify="left",
    caption_justify="left",
  )
  for heading in ("tap", "kind"):
    table.add_column(heading, no_wrap=True)
  for heading in ("row", "dtype", "MFLOP\nto it", "MiB", "MFLOP\nof pairs"):
    table.add_column(heading, justify="right", no_wrap=True)
  for row in rows(taps, config.batch_size):
    table.add_row(rich_text.Text(row["tap"]), *_cells(row))
  return table


def _title(config: Config) -> str:
  size = config.image_size
  return f"Taps of {config.network}, images {size} x {size} x {config.channels}"


def _caption(config: Config) -> str:
  return (
    f"Costs of a step of {config.batch_size} rows: operations of the forward pass up "
    "to the tap, memory of the tap, and operations of its matrix of inner products."
  )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  """Formatted properties of a tap, without its name."""
  return (
    row["kind"],
    " x ".join(map(str, row["shape"])),
    row["dtype"],
    f"{row['flops'] / 1e6:,.1f}",
    f"{row['bytes'] / 2**20:.2f}",
    f"{row['pair_flops'] / 1e6:,.1f}",
  )

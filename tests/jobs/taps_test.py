"""The listing of taps."""

import csv
import io
import json
import sys

import jax.numpy as jnp
import pytest
from flax import nnx
from rich import console as rich_console

from flowkd_jax import capture
from flowkd_jax.jobs import taps


@pytest.mark.slow
def test_listing_shows_taps_with_shapes_and_costs(capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "120")
  taps.run(taps.configure(network="cnn1:8", batch_size=64))
  lines = capsys.readouterr().out.splitlines()
  dense = next(line.split() for line in lines if line.strip().startswith("dense"))
  # By hand, of CNN1 at 32 pixels: 64 rows of 64 float32; 64 x 64 pairs of 2 x 64
  # operations; convolutions give four places at once, from windows of 4 x 4.
  products = 30**2 * 8 * 16 * 3 + 14**2 * 16 * 16 * 8 + 4**2 * 32 * 16 * 16 + 128 * 64
  flops = f"{64 * 2 * products / 1e6:.1f}"
  assert dense == ["dense", "sown", "64", "float32", flops, "0.02", "0.5"]
  conv = next(line.split() for line in lines if line.strip().startswith("conv_1"))
  assert conv[1] == "module"


def test_networks_that_are_not_there_are_refused():
  with pytest.raises(ValueError, match="--network: expected one of cnn1, .* got 'vgg'"):
    taps.run(taps.configure(network="vgg"))


class Blocks(nnx.Module):
  def __init__(self, rngs):
    self.blocks = nnx.List([nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)])

  def __call__(self, images):
    x = images.mean((1, 2))
    for block in self.blocks:
      x = block(x)
    return x


def make_blocks():
  return capture.from_nnx(Blocks(nnx.Rngs(0)))


@pytest.mark.slow
def test_listing_shows_models_of_other_frameworks(capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "theirs", sys.modules[__name__])
  taps.run(taps.configure(network="theirs:make_blocks", batch_size=64))
  rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
  assert ["blocks/0", "module", "5"] in rows
  assert ["blocks/1", "module", "2"] in rows


LONG = "[/b]" + 30 * "block/" + ":smile:"
ROWS = [
  capture.Tap(LONG, False, (2, 5), jnp.dtype("float32"), 1),
  capture.Tap('a,"b"', True, (2, 4, 3), jnp.dtype("bfloat16"), 7),
]


@pytest.fixture
def long_names(monkeypatch):
  monkeypatch.setattr(capture, "list_taps", lambda *arguments: ROWS)


@pytest.mark.usefixtures("long_names")
def test_pipes_get_one_row_a_line(capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "40")
  taps.run(taps.configure(batch_size=2))
  lines = capsys.readouterr().out.splitlines()
  (row,) = [line for line in lines if LONG in line]
  assert row.split() == [LONG, "module", "5", "float32", "0.0", "0.00", "0.0"]
  (row,) = [line for line in lines if 'a,"b"' in line]
  assert "4 x 3" in row


@pytest.mark.parametrize("width", [20, 60, 100, 300])
def test_terminals_of_any_width_show_whole_names(width):
  file = io.StringIO()
  console = rich_console.Console(
    file=file, force_terminal=True, color_system=None, width=width
  )
  taps.show_table(taps.configure(batch_size=2), ROWS, console)
  text = file.getvalue()
  assert LONG in text
  assert "…" not in text
  for part in ("4 x 3", "bfloat16"):
    assert part in " ".join(text.split())
  others = [line for line in text.splitlines() if LONG not in line]
  assert max(map(len, others)) <= width


@pytest.mark.usefixtures("long_names")
def test_programs_get_csv_and_json_with_exact_numbers(capsys):
  taps.run(taps.configure(batch_size=2, format="csv"))
  table = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
  assert [row["tap"] for row in table] == [LONG, 'a,"b"']
  assert table[1] == {
    "tap": 'a,"b"',
    "kind": "sown",
    "shape": "4x3",
    "dtype": "bfloat16",
    "flops": "14",
    "bytes": "48",
    "pair_flops": "96",
  }
  taps.run(taps.configure(batch_size=2, format="json"))
  found = json.loads(capsys.readouterr().out)
  assert found["network"] == "cnn1:16"
  assert found["batch_size"] == 2
  assert found["taps"][1]["shape"] == [4, 3]
  assert found["taps"] == taps.rows(ROWS, 2)


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--channels: expected 1 or more, got 0"):
    taps.configure(channels=0)
  with pytest.raises(ValueError, match="--format: expected one of table, csv, json"):
    taps.configure(format="xml")

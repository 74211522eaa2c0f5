"""The listing of taps."""

import sys

import jax.numpy as jnp
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax.jobs import taps


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


def test_listing_shows_models_of_other_frameworks(capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "theirs", sys.modules[__name__])
  taps.run(taps.configure(network="theirs:make_blocks", batch_size=64))
  rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
  assert ["blocks/0", "module", "5"] in rows
  assert ["blocks/1", "module", "2"] in rows


def test_names_are_no_markup_and_never_cut(capsys, monkeypatch):
  name = "[/b]" + 30 * "block/" + ":smile:"
  row = capture.Tap(name, False, (2, 5), jnp.dtype("float32"), 1)
  monkeypatch.setattr(capture, "list_taps", lambda *arguments: [row])
  taps.run(taps.configure(batch_size=2))
  assert name in capsys.readouterr().out


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--channels: expected 1 or more, got 0"):
    taps.configure(channels=0)

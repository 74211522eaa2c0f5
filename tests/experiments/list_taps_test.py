"""The listing of taps."""

import pytest

from experiments import list_taps


def test_listing_shows_taps_with_shapes_and_costs(capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "120")
  list_taps.run(list_taps.configure(network="cnn1:8", batch_size=64))
  lines = capsys.readouterr().out.splitlines()
  dense = next(line.split() for line in lines if line.strip().startswith("dense"))
  # 64 rows of 64 float32; 64 x 64 pairs of 2 x 64 operations.
  assert dense == ["dense", "sown", "64", "float32", "0.02", "0.5"]
  conv = next(line.split() for line in lines if line.strip().startswith("conv_1"))
  assert conv[1] == "module"


@pytest.mark.parametrize(
  ("network", "match"),
  [
    ("vgg", "--network: expected one of cnn1, .*MODULE:FUNCTION .* got 'vgg'"),
    ("flowkd_jax.models:VGG", "--network: .*got 'flowkd_jax.models:VGG'"),
    ("builtins:dict", "--network: expected builtins:dict to make a flax.linen.Mod"),
  ],
)
def test_networks_that_are_not_there_are_refused(network, match):
  with pytest.raises(ValueError, match=match):
    list_taps.find_network(network)


def test_networks_of_others_are_found():
  assert list_taps.find_network("flowkd_jax.models:CNN").width == 8


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--channels: expected 1 or more, got 0"):
    list_taps.configure(channels=0)

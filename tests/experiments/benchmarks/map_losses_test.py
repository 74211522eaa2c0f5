"""The benchmark of the losses on maps, tiny."""

import json

import pytest

from experiments.benchmarks import map_losses


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--losses: expected one of channel_wise"):
    map_losses.configure(losses=("cwd",))
  with pytest.raises(ValueError, match="--sides: expected 2 or more, got 1"):
    map_losses.configure(sides=("1",))


@pytest.mark.slow
def test_table_has_a_row_for_every_loss_and_side(capsys, tmp_path):
  pytest.importorskip("torch")
  path = tmp_path / "maps.json"
  config = map_losses.configure(
    losses=("ickd", "mgd"),
    sides=("2", "4"),
    batch=2,
    channels=3,
    rounds=1,
    turn_seconds=0.0,
    torch_modes=("eager",),
    json=str(path),
  )
  map_losses.run(config)
  printed = capsys.readouterr().out
  for name in ("ickd", "mgd"):
    assert printed.count(f"| {name}") == 2
  assert len(json.loads(path.read_text())["speed"]) == 4

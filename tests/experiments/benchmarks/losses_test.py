"""The benchmark of the losses, tiny."""

import json

import pytest

from experiments.benchmarks import losses as benchmark_losses

QUICK = {"rounds": 1, "turn_seconds": 0.0}


@pytest.mark.slow
def test_memory_table_has_both_ways_and_says_what_is_not_run(tmp_path, capsys):
  output = tmp_path / "table.md"
  settings = {"memory_sizes": ("24", "48"), "memory_width": 4, "block_size": 4}
  settings["json"] = str(tmp_path / "table.json")
  config = benchmark_losses.configure(
    what="memory", memory_gib=1.5e-5, output=str(output), **settings, **QUICK
  )
  benchmark_losses.run(config)
  printed = capsys.readouterr().out
  assert output.read_text() == printed
  small, large = (
    next(line for line in printed.splitlines() if line.startswith(f"| {size} |"))
    for size in (24, 48)
  )
  assert "not run" in large
  assert float(small.split("|")[2]) > float(small.split("|")[3])
  assert "Most memory that the process ever held" in printed
  found = json.loads((tmp_path / "table.json").read_text())
  assert [record["rows"] for record in found["memory"]] == [24, 48]


def test_impossible_settings_are_refused():
  with pytest.raises(
    ValueError, match="--what: expected one of speed, memory, all, got 'x'"
  ):
    benchmark_losses.configure(what="x")
  with pytest.raises(
    ValueError, match="--losses: expected one of information_flow, .*'pkd'"
  ):
    benchmark_losses.configure(losses=("pkd",))
  with pytest.raises(ValueError, match="--rounds: expected 1 or more, got 0"):
    benchmark_losses.configure(rounds=0)


def test_speed_table_has_a_row_for_every_loss_and_size(capsys, tmp_path):
  pytest.importorskip("torch")
  names, path = ("pkt", "crd", "reverse_kl"), tmp_path / "losses.json"
  config = benchmark_losses.configure(
    what="speed",
    losses=names,
    sizes=("8", "12"),
    torch_modes=("eager",),
    json=str(path),
    **QUICK,
  )
  benchmark_losses.run(config)
  printed = capsys.readouterr().out
  for name in names:
    for size in (8, 12):
      assert f"| {name} | {size} | " in printed
  first = json.loads(path.read_text())["speed"][0]
  assert first["seconds"].keys() == {"flowkd_jax", "eager", "products"}

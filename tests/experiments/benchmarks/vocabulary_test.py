"""Memory of losses on a vocabulary, tiny."""

import json

import pytest

from experiments.benchmarks import vocabulary


@pytest.mark.slow
def test_blocks_take_less_memory(tmp_path, capsys, monkeypatch):
  name = "reverse_kl"
  monkeypatch.setattr(vocabulary, "LOSSES", {name: vocabulary.LOSSES[name]})
  path = tmp_path / "memory.json"
  config = vocabulary.configure(
    tokens=64, words=8192, block_size=128, json=str(path), dtype="float32"
  )
  vocabulary.run(config)
  assert f"| {name}" in capsys.readouterr().out
  found = json.loads(path.read_text())[name]
  assert 0 < found["blocks"] < found["whole"] / 4


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--words: expected 64 or more, got 63"):
    vocabulary.configure(words=63)
  with pytest.raises(ValueError, match="--dtype: expected one of .*got 'int8'"):
    vocabulary.configure(dtype="int8")

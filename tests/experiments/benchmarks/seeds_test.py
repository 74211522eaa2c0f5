"""All seeds of a run in one program."""

import json

import pytest

from experiments.benchmarks import seeds

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_each_seed_equals_its_own_run(capsys, tmp_path):
  path = tmp_path / "seeds.json"
  config = seeds.configure(
    seeds=2,
    teacher_network="digits_cnn:4",
    student_network="digits_cnn:2",
    image_size=8,
    batch_size=8,
    rounds=1,
    steps=1,
    json=str(path),
  )
  seeds.run(config)
  found = json.loads(path.read_text())
  assert 0 < found["difference"] < 1e-5
  assert found["seconds"].keys() == {"one after another", "in one program"}
  assert "ms a step of a seed" in capsys.readouterr().out


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--seeds: expected 1 or more, got 0"):
    seeds.configure(seeds=0)
  with pytest.raises(ValueError, match="--student_network: network: expected one of"):
    seeds.configure(student_network="vgg")

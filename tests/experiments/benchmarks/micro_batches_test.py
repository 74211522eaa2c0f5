"""The benchmark of micro-batches, small."""

import json

import pytest

from experiments.benchmarks import micro_batches

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_larger_batch_needs_the_memory_of_the_smaller(capsys, tmp_path):
  path = tmp_path / "micro.json"
  config = micro_batches.configure(
    teacher_network="digits_cnn:2",
    student_network="digits_cnn:4",
    image_size=16,
    rows=64,
    micro_batches=4,
    timed_rows=16,
    rounds=1,
    steps=1,
    json=str(path),
  )
  micro_batches.run(config)
  found = json.loads(path.read_text())
  small, large, parts = found["needed_bytes"].values()
  assert large > 3 * small
  assert parts < 0.7 * large  # images weigh much beside so few activations
  assert found["difference"] < 1e-5
  assert "256 rows in 4 micro-batches" in capsys.readouterr().out
  with pytest.raises(ValueError, match="--micro_batches: expected 2 or more, got 1"):
    micro_batches.configure(micro_batches=1)

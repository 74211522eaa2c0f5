"""The benchmark of the teacher cache, small."""

import pytest

from experiments.benchmarks import teacher_cache

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_benchmark_fills_measures_and_compares(tmp_path, capsys):
  config = teacher_cache.configure(
    dataset="digits",
    examples=64,
    cache=str(tmp_path),
    teacher_network="digits_cnn:4",
    student_network="digits_cnn:2",
    last_tap_only=True,
    batch_size=16,
    rounds=1,
    steps=2,
  )
  teacher_cache.run(config)
  output = capsys.readouterr().out
  assert "logits, taps/dense as float32" in output
  assert "ms by the clock, with the cache" in output
  assert "ms of processor time, with the cache" in output
  assert "parameters of both students: equal to the bit" in output


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({}, "--cache: expected a folder"),
    ({"cache": "x", "steps": 0}, "--steps: expected 1 or more, got 0"),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    teacher_cache.configure(**options)

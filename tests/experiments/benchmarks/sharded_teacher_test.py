"""The benchmark of a sharded teacher, small."""

import json

import jax
import pytest

from experiments.benchmarks import sharded_teacher

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_sharded_teacher_takes_an_eighth_and_teaches_the_same(capsys, tmp_path):
  path = tmp_path / "sharded.json"
  config = sharded_teacher.configure(
    teacher_network="digits_cnn:16",
    student_network="digits_cnn:2",
    image_size=8,
    batch_size=16,
    rounds=1,
    steps=1,
    json=str(path),
  )
  sharded_teacher.run(config)
  ways = json.loads(path.read_text())["ways"]
  whole = ways["pmap"]["teacher_bytes"]
  assert whole == ways["jit"]["teacher_bytes"]
  assert whole / 8 <= ways["jit_sharded"]["teacher_bytes"] < whole / 6
  assert all(way["difference"] < 1e-5 for way in ways.values())
  assert "teacher, MiB each" in capsys.readouterr().out


@pytest.mark.slow
def test_teacher_is_on_the_host_and_settings_are_checked():
  config = sharded_teacher.configure(teacher_network="digits_cnn:2", image_size=8)
  teacher = sharded_teacher.frozen_teacher(config)
  assert not any(isinstance(x, jax.Array) for x in jax.tree.leaves(teacher.variables))
  with pytest.raises(ValueError, match="--devices: expected 0 or above, got -1"):
    sharded_teacher.configure(devices=-1)

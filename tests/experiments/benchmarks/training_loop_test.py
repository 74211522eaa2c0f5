"""The benchmark of the loop's host time."""

import json

import jax
import pytest

from experiments.benchmarks import training_loop


def test_benchmark_measures_each_state_and_number_of_steps(tmp_path, capsys):
  output = tmp_path / "loop.json"
  config = training_loop.configure(
    steps=6, steps_per_call=(1, 3), states=("number",), batch_size=4, json=str(output)
  )
  training_loop.run(config)
  record = json.loads(output.read_text())
  assert [entry["steps_per_call"] for entry in record["records"]] == [1, 3]
  assert all(entry["microseconds"] > 0 for entry in record["records"])
  assert {"device", "cores", "python", "jax"} <= record["environment"].keys()
  assert "microseconds of a step" in capsys.readouterr().out


def test_counting_method_carries_the_arrays_of_its_state():
  method = training_loop.counting("resnet18")
  shapes = jax.eval_shape(method.init, jax.random.key(0), training_loop._ROW)
  assert len(jax.tree.leaves(shapes)) > 150


def test_unknown_states_are_refused():
  with pytest.raises(ValueError, match="--states: expected"):
    training_loop.configure(states=("number", "other"))

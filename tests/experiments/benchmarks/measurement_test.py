"""Timing and reporting of the benchmarks."""

import json

import pytest

from experiments.benchmarks import measurement


def test_programs_take_turns():
  calls = []
  programs = {name: lambda name=name: calls.append(name) for name in "ab"}
  seconds = measurement.in_turns(programs, rounds=2, steps=3)
  warm, turn = measurement.WARM_UP, 4  # one call of a turn is not timed
  assert calls == [*("a" * warm + "b" * warm), *(2 * ("a" * turn + "b" * turn))]
  assert [len(values) for values in seconds.values()] == [2, 2]


def test_spread_is_median_and_range():
  assert measurement.spread([1.0, 2.0, 10.0], factor=1000) == "2e+03 (1e+03 to 1e+04)"
  assert measurement.spread([0.001, 0.002], factor=1000) == "1.5 (1 to 2)"
  assert measurement.spread([]) == ""
  assert measurement.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
  assert measurement.ratios([], [1.0, 3.0]) == []


def test_table_is_markdown():
  table = measurement.table(["program", "ms"], [["a", "1.0"], ["b", ""]])
  assert table.splitlines()[0].replace(" ", "") == "|program|ms|"
  assert table.splitlines()[2].replace(" ", "") == "|a|1.0|"


def test_numbers_are_written_with_settings_and_versions(tmp_path):
  environment = measurement.environment()
  assert {"device", "platform", "cores", "python", "jax"} <= environment.keys()
  assert "device cpu" in measurement.heading(environment, "batch 3")
  path = tmp_path / "found.json"
  results = {"seconds": measurement.summary({"a": [1.0, 3.0, 2.0], "b": []})}
  for config in (measurement.Config(), measurement.Config(json=str(path))):
    measurement.write(config, environment, results)
  found = json.loads(path.read_text())
  assert found["seconds"] == {
    "a": {"median": 2.0, "least": 1.0, "greatest": 3.0, "rounds": [1.0, 3.0, 2.0]}
  }
  assert found["settings"]["json"] == str(path)
  assert found["environment"] == environment


@pytest.mark.cpu("asks for a GPU that is not there")
def test_device_that_is_not_there_is_refused():
  assert measurement.use_device("").platform == "cpu"
  with pytest.raises(ValueError, match="--device: expected a device that JAX can use"):
    measurement.use_device("gpu")


def test_benchmark_without_pytorch_says_what_installs_it(monkeypatch):
  monkeypatch.setattr(measurement.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"PyTorch is not installed, .*make bench"):
    measurement.environment(torch=True)

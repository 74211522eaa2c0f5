"""Settings and table of the benchmark of growth."""

import json
import math

import pytest

from experiments.benchmarks.growth import benchmark


def test_exponent_is_that_of_a_power():
  assert benchmark.exponent((1, 2, 4), (3.0, 12.0, 48.0)) == pytest.approx(2)
  assert math.isnan(benchmark.exponent((5,), (1.0,)))


def test_run_prints_and_writes_a_line_for_each_case(tmp_path, monkeypatch, capsys):
  def points(name, sizes):
    del name
    return [
      {"first": 1.0, "again": 0.5 * size, "processor": 3.0, "mib": size**2}
      for size in sizes
    ]

  monkeypatch.setattr(benchmark, "_points", points)
  output = tmp_path / "growth.json"
  config = benchmark.configure(
    cases=("cka_matrix",), sizes=("1", "2", "4"), json=str(output)
  )
  benchmark.run(config)
  line = "| 1, 1, 1 | 0.5, 1, 2 | 3, 3, 3 | 1, 4, 16 | 0.0, 1.0, 0.0, 2.0 |"
  assert line in capsys.readouterr().out
  (record,) = json.loads(output.read_text())["records"]
  assert record["case"] == "cka_matrix"
  assert record["sizes"] == [1, 2, 4]


def test_unknown_cases_are_refused():
  with pytest.raises(ValueError, match="--cases: expected"):
    benchmark.configure(cases=("cka_matrix", "other"))

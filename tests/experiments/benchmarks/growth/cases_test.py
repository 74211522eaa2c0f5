"""All cases of the benchmark of growth."""

import json
import sys

import pytest

from experiments.benchmarks.growth import cases
from experiments.benchmarks.growth.case import Case


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.CASES)
def test_case_runs_at_its_smallest_size(name):
  case = cases.CASES[name]
  case.make(case.tiny)()
  assert list(case.sizes) == sorted(set(case.sizes))
  assert len(case.sizes) >= 3


@pytest.mark.slow
def test_measurement_is_printed_as_json(monkeypatch, capsys):
  case = Case(lambda size: lambda: size, (1,), "things")
  monkeypatch.setattr(cases, "CASES", {"nothing": case})
  monkeypatch.setattr(sys, "argv", ["-c", "nothing", "3"])
  cases.print_measured()
  found = json.loads(capsys.readouterr().out)
  assert found.keys() == {"first", "again", "processor", "mib"}

"""Table of the sizes of steps."""

import pytest

from experiments.studies import catalogue
from experiments.studies import spec
from experiments.studies import step_costs
from experiments.tables import step_sizes
from tests.experiments.conftest import unpadded


@pytest.fixture
def parts(monkeypatch):
  """A queue of one study of two launches, with one seed and with two."""
  study = spec.Study("small", (spec.Run("a", ""), spec.Run("b", "")))
  monkeypatch.setitem(catalogue.STUDIES, "small", study)
  return (spec.Part("small", (), ("0",)), spec.Part("small", ("b",), ("1", "2")))


def _cost(stage, program, **values):
  return step_costs.StageCost(stage, 10, 100, 7.6e10, 1, program=program, **values)


def test_equal_steps_count_once_and_gaps_are_named(parts):
  taken = {"gib": 20.5, "taken": 2, "finite": True, "cpu_seconds": 1.5}
  costs = {
    "small/a": (_cost("teacher", "x"), _cost("student", "y", gib=1.0)),
    "small/b": (_cost("teacher", "x", **taken), _cost("student", "z")),
  }
  text = unpadded(step_sizes.table(parts, costs))
  # Stages of 1 s and 25 s to compile and measure: two of a, three times two of b.
  row = "| small | 2 | 3 | 76 | 2 | 20.50 | 1 | yes | 1.5 | 3.5 min |"
  assert row in text
  assert "3 different steps: 2 compiled, 1 executed." in text
  assert "More than 14 GiB: small/b (teacher)." in text
  assert "Not finite: none." in text
  assert "Not compiled: small/b (student)." in text
  assert "Compiled but not executed: small/a." in text  # its other stage is that of b


def test_a_study_without_numbers_has_dashes(parts):
  text = unpadded(step_sizes.table(parts, {}))
  assert "| small | 2 | – | – | 0 | – | 0 | – | – | – |" in text


def test_steps_that_are_not_finite_are_named(parts):
  costs = {"small/a": (_cost("student", "x", gib=1.0, taken=1, finite=False),)}
  text = unpadded(step_sizes.table(parts, costs))
  assert "| no |" in text
  assert "Not finite: small." in text
  assert "3 launches not known" not in text
  assert "2 launches not known" in text

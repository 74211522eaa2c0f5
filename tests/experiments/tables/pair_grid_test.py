"""Tables of methods on pairs of networks."""

import pytest

from experiments.studies import spec
from experiments.tables import pair_grid
from tests.experiments.conftest import unpadded

GRID = spec.Grid(
  (("teacher", "teacher"), ("kd", "KD")),
  {"a_b": "a → b", "c_b": "c → b"},
  {"a_b": "teacher_a", "c_b": "teacher_c"},
  (("a_b",), ("c_b",)),
  {("kd", "a_b"): ("L", 73.3), ("teacher", "c_b"): ("B", 80.0)},
  {"L": "last epoch", "B": "best epoch"},
)
STUDY = spec.Study(
  "Pairs",
  (
    spec.Run("teacher_a", "", result="teacher"),
    spec.Run("teacher_c", "", result="teacher"),
    spec.Run("a_b_kd", ""),
    spec.Run("c_b_kd", ""),
  ),
  grid=GRID,
)


def _found():
  student = {"accuracy": 0.5, "best_test_epoch_accuracy": 0.625}
  other = {"accuracy": 0.7, "best_test_epoch_accuracy": 0.725}
  return {
    "teacher_a": {"0": {"teacher": {"accuracy": 0.75}}},
    "teacher_c": {},
    "a_b_kd": {"0": {"student": student}, "1": {"student": other}},
    "c_b_kd": {},
  }


def test_published_numbers_and_ours_stand_side_by_side():
  text = unpadded("\n".join(pair_grid.table(STUDY, _found())))
  assert "| KD | 73.30 L; **60.00 ± 14.14** (67.50 ± 7.07) |" in text
  assert "| teacher | **75.00** |" in text
  assert "| teacher | 80.00 B |" in text
  assert "| KD | – |" in text
  assert "L: last epoch; B: best epoch." in text
  assert "2 of 4 runs are made." in text


def test_a_grid_without_runs_says_so():
  text = "\n".join(pair_grid.table(STUDY, {run.name: {} for run in STUDY.runs}))
  assert "None of 4 runs are made." in text
  bare = STUDY._replace(grid=GRID._replace(published={}))
  assert "published" not in "\n".join(pair_grid.table(bare, _found()))


def test_a_study_without_a_grid_is_refused():
  with pytest.raises(ValueError, match="study: expected one with a grid, got 'Pairs'"):
    pair_grid.table(STUDY._replace(grid=None), {})

"""The nearest rows of a database."""

import numpy as np
import pytest

from flowkd_jax import evaluation

RNG = np.random.default_rng(0)
DATABASE = RNG.standard_normal((40, 3)).astype(np.float32)
QUERIES = RNG.standard_normal((7, 3)).astype(np.float32)


def _unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_nearest_rows_are_sorted_by_distance(metric, monkeypatch):
  monkeypatch.setattr(evaluation._nearest, "_DISTANCES_AT_ONCE", 80)
  actual = evaluation.nearest_rows(DATABASE, QUERIES, count=4, metric=metric)
  sides = [QUERIES, DATABASE]
  queries, database = map(_unit, sides) if metric == "cosine" else sides
  distances = np.linalg.norm(queries[:, None] - database[None], axis=2)
  np.testing.assert_array_equal(actual, distances.argsort(axis=1)[:, :4])


def test_nearest_rows_puts_the_earlier_of_equal_rows_first():
  rows = np.float32([[1, 0], [0, 0], [1, 0], [2, 0]])
  found = evaluation.nearest_rows(rows, rows[:1], count=4)
  assert found.tolist() == [[0, 2, 1, 3]]
  found = evaluation.nearest_rows(rows, rows[:1], count=4, metric="cosine")
  assert found.tolist() == [[0, 2, 3, 1]]


@pytest.mark.parametrize(
  ("arguments", "options", "error", "match"),
  [
    ((DATABASE, QUERIES), {"count": 41}, ValueError, "count: expected 1 to 40, got 41"),
    (
      (DATABASE, QUERIES),
      {"metric": "l1"},
      ValueError,
      "metric: .*'euclidean', 'cosine'",
    ),
    ((DATABASE, QUERIES[:, :2]), {}, ValueError, "database has 3 columns and queries"),
    ((DATABASE[0], QUERIES), {}, ValueError, r"database: .*\[rows, dim\], got \(3,\)"),
    ((DATABASE, QUERIES > 0), {}, TypeError, "queries: expected a floating-point"),
  ],
)
def test_nearest_rows_refuses_what_cannot_be(arguments, options, error, match):
  with pytest.raises(error, match=match):
    evaluation.nearest_rows(*arguments, **options)

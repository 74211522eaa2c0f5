"""Labelled rows: renumbered, scaled, normalised, refused."""

import numpy as np
import pytest

from flowkd_jax.evaluation import _rows

DATABASE, LABELS = np.array([[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]]), [7, -1, 3]
QUERIES, QUERY_LABELS = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 1.0]]), [3, -5, 9]


def _labelled(**changes):
  arguments = {
    "database": DATABASE,
    "database_labels": LABELS,
    "queries": QUERIES,
    "query_labels": QUERY_LABELS,
    "metric": "euclidean",
    **changes,
  }
  return _rows.labelled_rows(**arguments)


def test_labelled_rows_number_the_classes_of_the_database():
  rows = _labelled()
  assert rows.num_classes == 2
  np.testing.assert_array_equal(rows.database_classes, [1, 2, 0])
  # The query without a label is left out; class 9 is not in the database.
  np.testing.assert_array_equal(rows.query_classes, [0, -1])
  assert len(rows.queries) == 2


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_labelled_rows_share_one_power_of_two(scale):
  rows = _labelled(
    database=np.float32(DATABASE * scale), queries=np.float32(QUERIES * scale)
  )
  assert rows.database.dtype == np.float32
  assert 0.5 <= np.abs(rows.database).max() < 1
  factor = float(rows.database[0, 0]) / float(np.float32(scale))
  assert np.frexp(factor)[0] == 0.5
  np.testing.assert_allclose(rows.database, DATABASE * scale * factor, rtol=1e-6)
  np.testing.assert_allclose(rows.queries[0], QUERIES[0] * scale * factor, rtol=1e-6)


def test_unit_rows_keep_rows_of_zeros():
  rows = np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]], np.float32)
  unit = _rows.unit_rows(rows)
  np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
  assert unit.dtype == np.float32


@pytest.mark.parametrize(
  ("changes", "error", "match"),
  [
    ({"queries": np.ones((3, 5))}, ValueError, "database has 2 columns and queries"),
    ({"database": np.ones((3, 2, 1))}, ValueError, r"database: .*\[rows, dim\]"),
    ({"query_labels": [1, 1, 1]}, ValueError, "query_labels: .* got none of them"),
    ({"database_labels": [-1] * 3}, ValueError, "database_labels: .* with a label"),
    ({"queries": QUERIES * [1, np.nan]}, ValueError, "NaN or infinity in 3 of 3 rows"),
    ({"query_labels": [0.0] * 3}, TypeError, "query_labels"),
    ({"metric": "manhattan"}, ValueError, "metric: .*manhattan"),
  ],
)
def test_rows_that_cannot_be_compared_are_refused(changes, error, match):
  with pytest.raises(error, match=match):
    _labelled(**changes)


def test_the_centre_keeps_whole_numbers_whole_and_large_offsets_away():
  codes = np.random.default_rng(0).integers(-3, 4, (50, 6)).astype(np.float64)
  for offset in (0.0, 1000.0, -1e6):
    rows = codes + offset
    centre = _rows.coarse_centre(rows.mean(0), rows.min(0), rows.max(0))
    np.testing.assert_array_equal(centre, np.rint(centre))
    assert np.abs(rows - centre).max() <= 1.5 * np.ptp(rows)
  still = np.full((4, 2), 0.3)
  np.testing.assert_array_equal(_rows.coarse_centre(still[0], still[0], still[0]), 0.3)


def test_cosines_of_rows_of_any_size_keep_their_digits():
  rows = np.float32([[3e-38, 4e-38], [3e30, 4e30], [3, 4]])
  labelled = _labelled(
    database=rows, database_labels=[3, 3, 3], queries=rows, metric="cosine"
  )
  for side in (labelled.database, labelled.queries):
    unit = _rows.unit_rows(side)
    np.testing.assert_allclose(unit, [[0.6, 0.8]] * len(unit), rtol=1e-6)

"""Features in files, scaled block by block."""

import numpy as np
import pytest

from flowkd_jax.evaluation import _rows
from flowkd_jax.evaluation import _stored_rows

ROWS = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)


def test_scaling_centres_the_database_or_makes_unit_rows(monkeypatch):
  monkeypatch.setattr(_stored_rows, "_BYTES_AT_ONCE", 100)
  stored = _stored_rows.stored_rows("database", ROWS, np.zeros(9, int), "labels")
  assert [block.stop for block in _stored_rows.blocks(ROWS)] == [4, 8, 9]
  centred = _stored_rows.scaling_of("euclidean", stored, None)
  unit = 2.0**centred.exponent
  centre = _rows.coarse_centre(ROWS.mean(0), ROWS.min(0), ROWS.max(0))
  np.testing.assert_allclose(centred.scaled(ROWS), unit * (ROWS - centre), atol=1e-6)
  rows = _stored_rows.scaling_of("cosine", stored, None).scaled(ROWS)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_labels_of_any_width_are_read():
  for dtype in (np.uint8, np.int16, np.uint64):
    stored = _stored_rows.stored_rows("rows", ROWS, np.ones(9, dtype), "labels")
    assert stored.labels.dtype == np.int64
  with pytest.raises(TypeError, match="labels: expected integer"):
    _stored_rows.stored_rows("rows", ROWS, np.ones(9), "labels")
  with pytest.raises(ValueError, match=r"rows: expected features of shape \[rows, dim"):
    _stored_rows.stored_rows("rows", ROWS[None], np.ones(1, int), "labels")


def test_files_of_either_byte_order_are_read():
  swapped = ROWS.astype(ROWS.dtype.newbyteorder())
  stored = _stored_rows.stored_rows("rows", swapped, np.ones(9, ">i4"), "labels")
  scaled = _stored_rows.scaling_of("euclidean", stored, None).scaled(swapped)
  expected = _stored_rows.stored_rows("rows", ROWS, np.ones(9, int), "labels")
  expected = _stored_rows.scaling_of("euclidean", expected, None).scaled(ROWS)
  np.testing.assert_array_equal(scaled, expected)
  assert scaled.dtype == np.float32


def test_labels_beyond_int64_are_refused():
  labels = np.arange(9).astype(np.uint64) + np.uint64(2**63 - 4)
  with pytest.raises(ValueError, match=r"labels: expected labels below 2\^63, got "):
    _stored_rows.stored_rows("rows", ROWS, labels, "labels")

"""Nearest rows of a database in blocks."""

import numpy as np
import pytest

from flowkd_jax.evaluation import _nearest_blocks


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("count", [1, 6, 19])
def test_nearest_rows_are_those_of_a_stable_sort(count, backend, monkeypatch):
  monkeypatch.setattr(_nearest_blocks, "_ON_CPU", (5, 4))
  monkeypatch.setattr(_nearest_blocks, "_ELSEWHERE", (5, 4))
  rng = np.random.default_rng(0)
  # Whole numbers: many rows are at equal distance, negative ones among them.
  queries, rows = (rng.integers(-2, 3, (n, 2)).astype(np.float32) for n in (9, 20))
  squares = (rows**2).sum(1, keepdims=True)
  own = np.where(np.arange(9) % 2, np.arange(9), -1)

  def blocks(size):
    for start in range(0, 20, size):
      yield np.concatenate([rows, squares], 1)[start : start + size]

  found = _nearest_blocks.nearest_in_blocks(
    queries, own, blocks, count, backend=backend
  )
  distances = squares.T - 2 * queries @ rows.T
  distances[np.arange(9)[own >= 0], own[own >= 0]] = np.inf
  expected = distances.argsort(axis=1, kind="stable")[:, :count]
  np.testing.assert_array_equal(found, expected)


def test_nearest_rows_on_a_device_are_found_under_x64_too(x64):
  rows = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
  squares = (rows**2).sum(1, keepdims=True)
  found = _nearest_blocks.nearest_in_blocks(
    rows,
    np.full(9, -1),
    lambda size: iter([np.concatenate([rows, squares], 1)]),
    1,
    backend="gpu",
  )
  assert found.ravel().tolist() == [*range(9)]


def test_group_size_keeps_no_more_than_so_many_bytes():
  assert _nearest_blocks.group_size(2**20) == _nearest_blocks._ON_CPU[1]
  assert _nearest_blocks.group_size(2) == _nearest_blocks._KEPT_BYTES // 16

"""Ranks of the relevant rows, by both ways to sort."""

import numpy as np
import pytest

from flowkd_jax.evaluation import _ranking
from flowkd_jax.evaluation._rows import Rows

both_backends = pytest.mark.parametrize("backend", ["cpu", "another"])


def _rows(seed=0, database=11, queries=7):
  rng = np.random.default_rng(seed)
  return Rows(
    rng.standard_normal((database, 3)).astype(np.float32),
    np.array([2, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1])[:database],
    rng.standard_normal((queries, 3)).astype(np.float32),
    np.array([1, -1, 0, 2, 0, 1, -1])[:queries],
    3,
  )


def _positions(ranking, backend):
  """Ranks of the relevant rows, by the query of the caller."""
  found = {}
  for start in ranking.starts:
    chunk = _ranking.dispatch_chunk(ranking, start, backend=backend)
    for block in _ranking.collect_chunk(ranking, start, chunk, backend=backend):
      found |= zip(block.queries.tolist(), block.positions.tolist(), strict=True)
  return found


def _ranked(rows, metric):
  found = {}
  for number, (query, label) in enumerate(
    zip(rows.queries, rows.query_classes, strict=True)
  ):
    if metric == "cosine":
      unit = rows.database / np.linalg.norm(rows.database, axis=1, keepdims=True)
      distances = -unit @ query
    else:
      distances = np.linalg.norm(rows.database - query, axis=1)
    order = np.argsort(distances)
    if label >= 0:
      hits = rows.database_classes[order] == label
      found[number] = np.flatnonzero(hits).tolist()
  return found


@both_backends
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_positions_are_ranks_in_the_sorted_database(metric, backend):
  rows = _rows()
  ranking = _ranking.prepare_ranking(rows, metric)
  assert _positions(ranking, backend) == _ranked(rows, metric)


@both_backends
def test_other_classes_come_first_at_equal_distance(backend):
  rows = _rows()._replace(database=np.ones((11, 3), np.float32))
  ranking = _ranking.prepare_ranking(rows, "euclidean")
  counts = np.bincount(rows.database_classes)
  expected = {
    number: list(range(11 - counts[label], 11))
    for number, label in enumerate(rows.query_classes)
    if label >= 0
  }
  assert _positions(ranking, backend) == expected


def test_chunks_are_padded_and_change_nothing(monkeypatch):
  rng = np.random.default_rng(1)
  rows = _rows()._replace(
    queries=rng.standard_normal((21, 3)).astype(np.float32),
    query_classes=np.arange(21) % 3,
  )
  whole = _positions(_ranking.prepare_ranking(rows, "euclidean"), "cpu")
  monkeypatch.setattr(_ranking, "_DISTANCES_AT_ONCE", 1)
  ranking = _ranking.prepare_ranking(rows, "euclidean")
  assert [*ranking.starts] == [0, 8, 16]
  assert ranking.queries.shape == (24, 3)
  assert _positions(ranking, "cpu") == whole == _ranked(rows, "euclidean")


@pytest.mark.parametrize(
  ("free", "chunk"), [(None, 10_000), (2**36, 10_000), (2**20, 21), (0, 8)]
)
def test_chunks_of_a_device_fill_half_of_its_free_memory(free, chunk, monkeypatch):
  assert _ranking._free_bytes() is None  # A CPU does not tell.
  monkeypatch.setattr(_ranking, "_free_bytes", lambda: free)
  assert _ranking._chunk_size(10_000, 1_000, 4, "gpu") == chunk
  assert _ranking._chunk_size(10_000, 50_000, 4, "cpu") == 167


def test_chunks_of_a_device_are_of_nearly_equal_size(monkeypatch):
  monkeypatch.setattr(_ranking, "_free_bytes", lambda: 2**40)
  assert _ranking._chunk_size(10_000, 50_000, 4, "gpu") == 10_000
  # No array has more than 2**30 entries: 5,368 queries would be the most.
  assert _ranking._chunk_size(10_000, 200_000, 4, "gpu") == 5_000

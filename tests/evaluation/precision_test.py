"""Precision of ranked lists against rank by rank definitions."""

import numpy as np
import pytest

from flowkd_jax.evaluation import _precision


def _authors(hits, length):
  """The authors' interpolated precision, at the rank of the nearest recall."""
  ranks = np.arange(1, hits.size + 1)
  precision, recall = hits.cumsum() / ranks, hits.cumsum() / hits.sum()
  interpolated = precision.copy()
  interpolated[:length] = [precision[i:length].max() for i in range(length)]
  levels = [np.arange(0, 1.01, step) for step in (0.1, 0.05)]
  nearest = [[abs(recall - level).argmin() for level in each] for each in levels]
  return [interpolated[index] for index in nearest], interpolated


@pytest.mark.parametrize("relevant", [1, 3, 7])
def test_sum_precisions_is_the_sum_of_the_definitions(relevant):
  rng = np.random.default_rng(relevant)
  database, lengths = 12, np.array([8, 8, 3, 1])
  positions = [rng.choice(database, relevant, replace=False) for _ in lengths]
  positions = np.sort(positions, axis=1)
  sums = _precision.sum_precisions(positions, lengths, database, lengths.max())
  hits = np.zeros((len(lengths), database))
  np.put_along_axis(hits, positions, 1, axis=1)
  precision = hits.cumsum(1) / np.arange(1, database + 1)
  recall = hits.cumsum(1) / relevant
  np.testing.assert_allclose(sums.average, (precision * hits).sum() / relevant)
  curve = [
    sum(p[r >= level - 1e-9].max() for p, r in zip(precision, recall, strict=True))
    for level in _precision.RECALL_LEVELS
  ]
  np.testing.assert_allclose(sums.curve, curve)
  np.testing.assert_array_equal(sums.hits, hits.sum(0))
  rows = [_authors(*each) for each in zip(hits, lengths, strict=True)]
  np.testing.assert_allclose(
    sums.authors_average, sum(coarse.mean() for (coarse, _), _ in rows)
  )
  np.testing.assert_allclose(sums.authors_curve, sum(fine for (_, fine), _ in rows))
  np.testing.assert_allclose(
    sums.authors_head, sum(head[: lengths.max()] for _, head in rows)
  )


def test_relevant_rows_that_come_first_have_precision_one():
  positions = np.array([[0, 1, 2]] * 2)
  sums = _precision.sum_precisions(positions, np.array([5, 5]), 5, 5)
  assert sums.average == 2
  np.testing.assert_array_equal(sums.curve, np.full(21, 2.0))
  np.testing.assert_array_equal(sums.hits, [2, 2, 2, 0, 0])

"""Matrices of likeness between the taps of two networks."""

import numpy as np
import pytest

from flowkd_jax import evaluation
from flowkd_jax import flow

RNG = np.random.default_rng(0)
TAPS = [RNG.standard_normal((24, width)).astype(np.float32) for width in (3, 5)]
LABELS = np.arange(24, dtype=np.int32) % 3


def _cka(x, y):
  x, y = x - x.mean(0), y - y.mean(0)
  norm = lambda a, b: np.linalg.norm(a.T @ b)
  return norm(x, y) ** 2 / (norm(x, x) * norm(y, y))


def test_cka_matrix_is_the_alignment_of_every_pair():
  teacher = [("first", TAPS[1]), ("second", TAPS[0].reshape(24, 3, 1))]
  actual = evaluation.cka_matrix(TAPS, teacher)
  expected = [[_cka(x, y) for y in (TAPS[1], TAPS[0])] for x in TAPS]
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  np.testing.assert_allclose(actual[0, 1], 1, atol=1e-6)


def test_flow_distance_matrix_is_the_distance_of_flows():
  actual = evaluation.flow_distance_matrix(
    TAPS, TAPS, labels=LABELS, num_classes=3, block_size=8
  )
  values = np.asarray(flow.information_flow(TAPS, LABELS, 3))
  np.testing.assert_allclose(
    actual, np.abs(values[:, None] - values[None]), rtol=1e-4, atol=1e-8
  )


def test_matrices_refuse_what_does_not_belong_together():
  with pytest.raises(ValueError, match="same batch|batch size"):
    evaluation.cka_matrix(TAPS, [TAPS[0][:5]])
  with pytest.raises(ValueError, match="student: expected at least one"):
    evaluation.flow_distance_matrix([], TAPS, labels=LABELS, num_classes=3)


def test_dead_share_counts_units_that_are_the_same_in_every_row():
  rows = np.array([[1.0, 0.0, 0.1, 5.0], [1.0, 0.0, 0.2, 5.0], [1.0, 1.0, 0.3, 5.0]])
  assert evaluation.dead_share(rows) == 0.5
  assert evaluation.dead_share(rows.reshape(3, 2, 2)) == 0.5
  assert evaluation.dead_share(np.ones((4, 3))) == 1


def test_flow_distance_matrix_reads_labels_by_the_rule_of_losses():
  rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
  labels = np.arange(12) % 3
  missing = np.arange(12) < 4
  found = evaluation.flow_distance_matrix(
    [rows], [rows**2], labels=np.where(missing, -1, labels), num_classes=3
  )
  expected = evaluation.flow_distance_matrix(
    [rows[4:]], [rows[4:] ** 2], labels=labels[4:], num_classes=3
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  with pytest.raises(ValueError, match="labels: expected classes from.* got 2"):
    evaluation.flow_distance_matrix([rows], [rows], labels=labels, num_classes=2)

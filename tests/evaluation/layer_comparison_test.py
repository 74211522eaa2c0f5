"""Matrices of likeness between the taps of two networks."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import evaluation
from flowkd_jax import flow
from flowkd_jax import losses
from flowkd_jax.evaluation import _layer_comparison

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_cka_matrix_is_that_of_the_loss(monkeypatch):
  monkeypatch.setattr(_layer_comparison, "_BYTES_AT_ONCE", 4 * 24 * 9 * 7)  # 7 rows
  monkeypatch.setattr(_layer_comparison, "_COLUMNS_AT_ONCE", 4)
  rng = np.random.default_rng(1)
  common = rng.standard_normal((24, 5))
  taps = [
    1e30 * common,
    100 + common @ rng.standard_normal((5, 9)),
    1e-30 * (common + 0.01 * rng.standard_normal((24, 5))),
    jnp.asarray(common, jnp.bfloat16),
    np.full((24, 3), 0.1),  # all rows alike
    np.full((24, 2), 0.1) + 1e-9 * common[:, :2],  # alike but for rounding
    rng.standard_normal((24, 3, 3)),
    np.where(np.arange(24)[:, None] == 3, np.nan, common),
    np.where(np.arange(24)[:, None] == 3, np.inf, common),
  ]
  taps = [tap if isinstance(tap, jax.Array) else tap.astype(np.float32) for tap in taps]
  found = evaluation.cka_matrix(taps[:4], taps[4:])
  found = np.concatenate([evaluation.cka_matrix(taps[:4], taps[:4]), found], 1)
  measure = jax.jit(losses.linear_cka)
  expected = [[1 - float(measure(left, right)) for right in taps] for left in taps[:4]]
  np.testing.assert_allclose(found, expected, atol=3e-7)
  assert evaluation.cka_matrix(taps[4:5], taps[4:6]).tolist() == [[1, 1]]


@pytest.mark.slow
def test_debiased_cka_matrix_is_that_of_the_loss(monkeypatch):
  monkeypatch.setattr(_layer_comparison, "_BYTES_AT_ONCE", 4 * 24 * 5 * 7)  # 7 rows
  rng = np.random.default_rng(1)
  common = rng.standard_normal((24, 5))
  taps = [
    1e30 * common,
    100 + common @ rng.standard_normal((5, 30)),
    rng.standard_normal((24, 5)),
    np.full((24, 5), 0.1),  # all rows alike
    np.where(np.arange(24)[:, None] == 3, 7.0, np.ones((24, 5))),  # one unlike
    np.where(np.arange(24)[:, None] == 3, np.nan, common),
  ]
  taps = [tap.astype(np.float32) for tap in taps]
  found = evaluation.cka_matrix(taps, taps, debiased=True)
  measure = jax.jit(lambda *sides: losses.linear_cka(*sides, debiased=True))
  expected = [[1 - float(measure(left, right)) for right in taps] for left in taps[:2]]
  np.testing.assert_allclose(found[:2], expected, atol=1e-6)
  assert (found[:3, :3] < 0).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_estimates_are_averaged_over_batches_before_the_ratio(seed):
  golden = np.load(GOLDEN / f"cka_debiased_{seed}.npz")
  taps = [golden["student"]], [golden["teacher"]]
  found = evaluation.cka_matrix(*taps, debiased=True)
  np.testing.assert_allclose(found, [[golden["value"]]], rtol=1e-5)
  found = evaluation.cka_matrix(
    *taps, debiased=True, batch_size=len(golden["student"]) // 2
  )
  np.testing.assert_allclose(found, [[golden["value_two_minibatches"]]], rtol=1e-5)


def test_batches_too_small_for_the_debiased_estimate_are_refused():
  with pytest.raises(ValueError, match="debiased: expected at least 4 rows.* got 3"):
    evaluation.cka_matrix(TAPS, TAPS, debiased=True, batch_size=3)
  with pytest.raises(ValueError, match="debiased: expected at least 4 rows.* got 2"):
    evaluation.cka_matrix([TAPS[0][:2]], [TAPS[1][:2]], debiased=True)
  with pytest.raises(ValueError, match="batch_size: expected a number above 0, got 0"):
    evaluation.cka_matrix(TAPS, TAPS, batch_size=0)


@pytest.mark.parametrize(
  "compare",
  [
    evaluation.cka_matrix,
    functools.partial(evaluation.flow_distance_matrix, labels=LABELS, num_classes=3),
  ],
)
def test_matrices_are_compiled_once_for_similar_widths(compare):
  rng = np.random.default_rng(2)
  first, second = (
    [rng.standard_normal((24, width)).astype(np.float32) for width in widths]
    for widths in ((33, 40, 47, 50), (38, 44, 57, 64))
  )
  programs = [
    getattr(_layer_comparison, name)
    for name in ("_add_products", "_products", "_information")
  ]
  compare(first, first)
  compiled = [program._cache_size() for program in programs]
  compare(first, second)
  compare(second, first)
  assert [program._cache_size() for program in programs] == compiled

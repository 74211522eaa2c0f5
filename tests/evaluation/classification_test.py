import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.evaluation import _classification
from flowkd_jax.evaluation import accuracy
from flowkd_jax.evaluation import nearest_centroid_accuracy

LOGITS = jnp.array([[3.0, 1, 2], [0, 2, 1], [1, 0, 2], [5, 4, 3]])
LABELS = jnp.array([0, 2, 1, 2])


@pytest.mark.parametrize(("top_k", "expected"), [(1, 0.25), (2, 0.5), (3, 1.0)])
def test_accuracy_counts_labels_among_the_largest(top_k, expected):
  assert accuracy(LOGITS, LABELS, top_k=top_k) == expected


def test_accuracy_works_under_jit():
  assert jax.jit(accuracy)(LOGITS, LABELS) == 0.25


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("label_dtype", [jnp.uint8, jnp.int32])
def test_accuracy_takes_every_dtype(dtype, label_dtype):
  logits = jnp.eye(300, dtype=dtype)[:200]  # more classes than uint8 can count
  assert accuracy(logits, jnp.arange(200).astype(label_dtype)) == 1


def test_accuracy_gives_ties_to_the_lower_index():
  equal = jnp.zeros((4, 4))
  labels = jnp.arange(4)
  assert accuracy(equal, labels) == 0.25
  assert accuracy(equal, labels, top_k=3) == 0.75


@pytest.mark.slow
def test_accuracy_leaves_out_rows_without_a_label():
  labels = jnp.array([0, -1, -100, 2])
  assert accuracy(LOGITS, labels) == accuracy(LOGITS[::3], labels[::3]) == 0.5
  assert accuracy(LOGITS.at[1].set(jnp.nan), labels) == 0.5
  assert np.isnan(accuracy(LOGITS, jnp.full(4, -1)))


def test_accuracy_of_a_label_beyond_the_classes_is_nan_or_refused():
  labels = np.array([0, 3, 1, 2])
  assert np.isnan(jax.jit(accuracy)(LOGITS, labels))
  for given in (labels, labels.tolist()):
    with pytest.raises(ValueError, match="labels: expected classes from 0.* got 3"):
      accuracy(LOGITS, given)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("top_k", [1, 3])
def test_accuracy_of_broken_logits_is_nan(value, top_k):
  assert np.isnan(accuracy(LOGITS.at[2, 1].set(value), LABELS, top_k=top_k))


@pytest.mark.slow
def test_accuracy_agrees_with_argmax_at_negative_infinity():
  logits = jnp.array([[-jnp.inf, -jnp.inf], [-jnp.inf, 0.0]])
  assert accuracy(logits, jnp.array([0, 1])) == 1


@pytest.mark.parametrize("top_k", [0, 4])
def test_accuracy_rejects_top_k(top_k):
  with pytest.raises(ValueError, match="top_k: expected 1 to 3.*got"):
    accuracy(LOGITS, LABELS, top_k=top_k)


@pytest.mark.parametrize(
  ("logits", "labels", "error", "message"),
  [
    (LOGITS, LABELS[:3], ValueError, r"labels: expected shape \(4,\)"),
    (LOGITS, LABELS[:, None], ValueError, r"labels: expected shape \(4,\)"),
    (LOGITS, LOGITS[:, 0], TypeError, "labels: expected integer"),
    (LOGITS[None], LABELS, ValueError, r"logits: expected shape \[batch, classes"),
    (LOGITS[:0], LABELS[:0], ValueError, "logits: expected a non-empty array"),
    (LABELS[:, None], LABELS, TypeError, "logits: expected a floating-point"),
  ],
)
def test_accuracy_rejects_bad_input(logits, labels, error, message):
  with pytest.raises(error, match=message):
    accuracy(logits, labels)


def test_nearest_centroid_accuracy_of_a_hand_computed_case():
  database = np.array([[0.0, 0], [2, 0], [0, 4], [0, 8]])  # means (1, 0), (0, 6)
  labels = np.array([7, 7, 3, 3])
  queries = np.array([[1.0, 1], [0, 5], [3, 2]])
  query_labels = np.array([7, 3, 3])
  result = nearest_centroid_accuracy(database, labels, queries, query_labels)
  assert result == pytest.approx(2 / 3)


def test_nearest_centroid_accuracy_by_cosine_averages_unit_rows():
  # Unit rows average to (.5, .5); plain means would point along (1, 100).
  database = np.array([[1.0, 0], [0, 100], [0, 1]])
  labels = np.array([0, 0, 1])
  queries = np.array([[10.0, 12], [0.01, 0.3]])
  query_labels = np.array([0, 1])
  assert (
    nearest_centroid_accuracy(database, labels, queries, query_labels, metric="cosine")
    == 1
  )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_nearest_centroid_accuracy_is_blind_to_scale_and_order(metric):
  random = np.random.default_rng(0)
  labels = random.integers(0, 5, 200)
  features = random.normal(size=(200, 8)) + 2 * np.eye(5, 8)[labels]
  order = random.permutation(120)

  def of(scale, order):
    return nearest_centroid_accuracy(
      scale * features[order],
      labels[order],
      scale * features[120:],
      labels[120:],
      metric=metric,
    )

  expected = of(1, slice(120))
  assert 0.5 < expected < 1
  assert of(1e-30, order) == of(1e30, order) == expected


def test_nearest_centroid_accuracy_by_cosine_puts_zero_rows_at_cosine_0():
  database = np.array([[0.0, 0], [-1, 0]])
  result = nearest_centroid_accuracy(
    database, np.array([0, 1]), np.array([[1.0, 0]]), np.array([0]), metric="cosine"
  )
  assert result == 1


def test_nearest_centroid_accuracy_counts_unknown_classes_as_wrong():
  database = np.eye(2)
  result = nearest_centroid_accuracy(
    database, np.array([0, 2]), np.eye(2)[[0, 1, 1, 1]], np.array([0, 1, 3, 2])
  )
  assert result == 0.5


def test_nearest_centroid_accuracy_leaves_out_rows_without_a_label():
  database = np.array([[1.0, 0], [0, 1], [-9, -9], [9, 9]])
  queries = np.array([[-9.0, -9], [1, 0], [0, 1]])
  labels, query_labels = np.array([0, 1, -1, -100]), np.array([-1, 0, 1])
  found = nearest_centroid_accuracy(database, labels, queries, query_labels)
  assert found == 1
  with pytest.raises(ValueError, match="query_labels: expected at least one row with"):
    nearest_centroid_accuracy(database, labels, queries, np.full(3, -1))


def test_nearest_centroid_accuracy_rejects_features_that_are_not_finite():
  with pytest.raises(ValueError, match="queries: expected finite.*first in row 1"):
    nearest_centroid_accuracy(
      np.eye(2), np.arange(2), np.array([[0, 1], [np.nan, 1]]), np.arange(2)
    )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_nearest_centroid_accuracy_of_many_classes_equals_its_definition(
  metric, monkeypatch
):
  for name in ("_ROWS_AT_ONCE", "_DISTANCES_AT_ONCE"):  # a class in several blocks
    monkeypatch.setattr(_classification, name, 7)
  random = np.random.default_rng(0)
  database, queries = random.normal(size=(60, 4)), random.normal(size=(40, 4))
  labels, query_labels = (random.integers(-1, 12, size) for size in (60, 40))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  rows = unit(database) if metric == "cosine" else database
  known = np.unique(labels[labels >= 0])
  centroids = np.stack([rows[labels == label].mean(0) for label in known])
  if metric == "cosine":
    distances = -queries @ unit(centroids).T
  else:
    distances = ((queries[:, None] - centroids[None]) ** 2).sum(2)
  right = known[distances.argmin(1)] == query_labels
  found = nearest_centroid_accuracy(
    database, labels, queries, query_labels, metric=metric
  )
  assert found == pytest.approx(right[query_labels >= 0].mean())

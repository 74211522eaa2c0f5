import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import evaluation
from flowkd_jax.evaluation import _ranking
from flowkd_jax.evaluation import _retrieval
from flowkd_jax.evaluation import retrieval

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SETS = ("database", "database_labels", "queries", "query_labels")


def golden(seed, metric):
  stored = np.load(GOLDEN / f"retrieval_{seed}.npz")
  prefix = {"euclidean": "l2__", "cosine": "cosine__"}[metric]
  values = {name: stored[prefix + name] for name in ("map", "raw_precision")}
  values["precision"] = stored[prefix + "precision"]
  return [stored[name] for name in SETS], values


def blobs(database=90, queries=40, classes=4, seed=0):
  """Overlapping clusters of unequal sizes, a large common offset."""
  random = np.random.default_rng(seed)
  shares = np.arange(1, classes + 1) / (classes * (classes + 1) / 2)
  centres = 1.5 * random.normal(size=(classes, 6)) + 3
  labels = random.choice(classes, database + queries, p=shares)
  labels[:classes] = np.arange(classes)
  features = centres[labels] + random.normal(size=(len(labels), 6))
  return [
    features[:database],
    labels[:database],
    features[database:],
    labels[database:],
  ]


def reference(data, metric, batch):
  """The definitions, query by query and rank by rank, in float64."""
  database, database_labels, queries, query_labels = data
  results = []
  for number, (query, label) in enumerate(zip(queries, query_labels, strict=True)):
    if metric == "euclidean":
      distance = np.linalg.norm(database - query, axis=1)
    else:
      norms = np.linalg.norm(database, axis=1) * np.linalg.norm(query)
      distance = 1 - database @ query / norms
    hits = (database_labels == label)[np.argsort(distance)]
    size = hits.size
    precision = [hits[: rank + 1].mean() for rank in range(size)]
    recall = [hits[: rank + 1].sum() / hits.sum() for rank in range(size)]
    length = min(batch, len(queries) - number // batch * batch, size)
    partly = [max(precision[rank : max(length, rank + 1)]) for rank in range(size)]
    results.append(
      {
        "mean_average_precision": np.mean(np.array(precision)[hits]),
        "precision": [
          max(p for p, r in zip(precision, recall, strict=True) if r > level - 1e-9)
          for level in np.arange(21) / 20
        ],
        "plain": precision,
        "authors_raw_precision": partly,
        "authors_mean_average_precision": np.mean(
          [
            partly[np.abs(np.array(recall) - level).argmin()]
            for level in np.arange(0, 1.01, 0.1)
          ]
        ),
      }
    )
  names = results[0]
  means = {name: np.mean([one[name] for one in results], axis=0) for name in names}
  means["interpolated_average_precision"] = means["precision"][::2].mean()
  return means


def assert_same(one, other, tolerance=0.0):
  for name, value in vars(one).items():
    np.testing.assert_allclose(
      list(value.values()) if isinstance(value, dict) else value,
      list(getattr(other, name).values())
      if isinstance(value, dict)
      else getattr(other, name),
      rtol=tolerance,
      atol=tolerance,
      err_msg=name,
    )


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
  """Both ways to sort; the second runs on the CPU here too."""
  monkeypatch.setattr(jax, "default_backend", lambda: request.param)
  return request.param


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("seed", [0, 1])
def test_retrieval_equals_the_authors_values(seed, metric, backend, x64):
  data, expected = golden(seed, metric)
  found = retrieval(*data, metric=metric)
  assert found.authors_mean_average_precision == pytest.approx(
    expected["map"], abs=1e-9
  )
  for name in ("precision", "raw_precision"):
    np.testing.assert_allclose(
      getattr(found, "authors_" + name), expected[name], rtol=0, atol=1e-9
    )
  assert found.authors_precision_at[100] == found.authors_raw_precision[99]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_retrieval_in_single_precision_equals_the_authors_values(metric):
  data, expected = golden(1, metric)
  found = retrieval(*data, metric=metric)
  np.testing.assert_allclose(found.authors_precision, expected["precision"], atol=1e-4)
  np.testing.assert_allclose(
    found.authors_raw_precision, expected["raw_precision"], atol=1e-4
  )


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("batch", [1, 16, 40, 64, 128])
def test_retrieval_equals_the_definitions(metric, batch, x64):
  data = blobs()
  found = retrieval(*data, metric=metric, ranks=(1, 5, 90), authors_query_batch=batch)
  expected = reference(data, metric, batch)
  for rank in (1, 5, 90):
    assert found.precision_at[rank] == pytest.approx(expected["plain"][rank - 1])
  expected.pop("plain")
  for name, value in expected.items():
    np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12, err_msg=name)


def test_retrieval_of_a_hand_computed_case():
  database = np.array([[1.0], [2], [3], [4], [5]])
  labels = np.array([1, 0, 1, 0, 0])
  found = retrieval(
    database, labels, np.zeros((1, 1)), np.array([1]), ranks=(1, 2, 3, 5)
  )
  assert found.mean_average_precision == pytest.approx((1 + 2 / 3) / 2)
  # Recall 0 to .5 at precision 1, .6 to 1 at 2/3.
  expected = (6 + 5 * 2 / 3) / 11
  assert found.interpolated_average_precision == pytest.approx(expected)
  assert found.precision_at == pytest.approx({1: 1, 2: 0.5, 3: 2 / 3, 5: 0.4})
  assert found.recall_levels[[0, 10, 20]] == pytest.approx([0, 0.5, 1])
  assert found.precision[10:12] == pytest.approx([1, 2 / 3])
  assert found.unmatched_queries == 0


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_retrieval_of_separate_classes_is_perfect(metric, backend):
  labels = np.arange(60) % 3
  features = np.eye(3)[labels] + 1e-3 * np.random.default_rng(0).normal(size=(60, 3))
  found = retrieval(
    features[:45], labels[:45], features[45:], labels[45:], metric=metric, ranks=(15,)
  )
  assert found.mean_average_precision == 1
  assert found.interpolated_average_precision == pytest.approx(1)
  assert found.authors_mean_average_precision == pytest.approx(1)
  assert found.precision_at == {15: 1}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("change", ["permute", "scale up", "scale down"])
def test_retrieval_is_blind_to_order_and_scale(metric, change):
  data = blobs()
  database, labels, queries, query_labels = data
  order = np.random.default_rng(1).permutation(90)
  changed = {
    "permute": [database[order], labels[order], queries, query_labels],
    "scale up": [2.0**80 * database, labels, 2.0**80 * queries, query_labels],
    "scale down": [2.0**-80 * database, labels, 2.0**-80 * queries, query_labels],
  }[change]
  settings = {"metric": metric, "ranks": (1, 10)}
  assert_same(retrieval(*data, **settings), retrieval(*changed, **settings), 1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_retrieval_is_the_same_for_both_ways_to_sort(metric, monkeypatch):
  monkeypatch.setattr(_ranking, "_DISTANCES_AT_ONCE", 90 * 9)  # 5 chunks
  data = blobs()
  data[0][20:40] = data[0][40:60]  # ties within classes and across them
  by_numpy = retrieval(*data, metric=metric, ranks=(1, 10))
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(_ranking, "_UNKNOWN_AT_ONCE", 90 * 9)
  monkeypatch.setattr(_retrieval, "_POSITIONS_OF_PIECE", 100)
  calls = []
  by_xla = retrieval(
    *data, metric=metric, ranks=(1, 10), progress=lambda *call: calls.append(call)
  )
  assert_same(by_numpy, by_xla, 1e-12)  # Sums are added in another order.
  assert calls[-1] == (40, 40)
  assert len(calls) > 5  # pieces of chunks


def test_retrieval_does_not_depend_on_chunks(monkeypatch):
  whole = retrieval(*blobs(), ranks=(1, 10))
  monkeypatch.setattr(_ranking, "_DISTANCES_AT_ONCE", 0)  # as small as they get
  monkeypatch.setattr(_retrieval, "_MOST_THREADS", 3)
  assert_same(whole, retrieval(*blobs(), ranks=(1, 10)), 1e-12)


def test_retrieval_puts_other_classes_first_at_equal_distance(backend):
  database = np.array([[1.0], [-1], [1], [2]])
  labels = np.array([1, 0, 1, 0])
  found = retrieval(database, labels, np.zeros((1, 1)), np.array([1]), ranks=(1, 2, 3))
  assert found.precision_at == pytest.approx({1: 0, 2: 1 / 2, 3: 2 / 3})


def test_retrieval_of_codes_puts_other_classes_first_at_equal_distance(backend):
  rng = np.random.default_rng(0)
  codes, labels = rng.integers(-2, 3, (60, 3)), rng.integers(0, 6, 60)
  distances = ((codes[:, None] - codes[None]) ** 2).sum(-1)
  np.fill_diagonal(distances, 99)
  relevant = labels[:, None] == labels[None]
  nearest = np.lexsort((relevant, distances), axis=1)[:, :3]
  hits = np.take_along_axis(relevant, nearest, axis=1)
  found = retrieval(codes.astype(np.float32), labels, ranks=(1, 3))
  np.testing.assert_allclose(found.precision_at[3], hits.mean())
  np.testing.assert_allclose(found.precision_at[1], hits[:, 0].mean())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_retrieval_gains_nothing_from_collapse(metric, value, backend):
  labels = np.arange(301) % 7
  features = np.full((301, 13), value)
  found = retrieval(features, labels, features[:20], labels[:20], metric=metric)
  assert found.precision_at == {1: 0, 10: 0, 100: 0}
  assert found.authors_precision_at[1] == 0


def test_retrieval_by_cosine_puts_zero_rows_at_cosine_0():
  database = np.array([[0.0, 0], [-1, 0], [1, 0]])
  found = retrieval(
    database,
    np.array([1, 0, 0]),
    np.array([[1.0, 0]]),
    np.array([1]),
    metric="cosine",
    ranks=(2,),
  )
  assert found.mean_average_precision == 0.5


def test_retrieval_counts_queries_of_absent_classes_as_zero(backend):
  database, labels, queries, query_labels = blobs(queries=30)
  settings = {"ranks": (1, 10), "authors_query_batch": 10}
  known = retrieval(database, labels, queries, query_labels, **settings)
  found = retrieval(
    database,
    labels,
    np.concatenate([queries, queries[:10]]),
    np.concatenate([query_labels, np.full(10, 99)]),
    **settings,
  )
  assert found.unmatched_queries == 10
  for name in ("mean_average_precision", "authors_mean_average_precision"):
    assert getattr(found, name) == pytest.approx(0.75 * getattr(known, name))
  assert found.precision_at[10] == pytest.approx(0.75 * known.precision_at[10])
  assert found.authors_precision == pytest.approx(0.75 * known.authors_precision)


def test_retrieval_of_a_single_class_finds_everything(backend):
  found = retrieval(
    np.eye(4), np.zeros(4, int), 2 * np.eye(4)[:1], np.zeros(1, int), ranks=(4,)
  )
  assert found.mean_average_precision == 1


def test_retrieval_leaves_out_queries_without_a_label():
  database, labels, queries, query_labels = blobs(queries=30)
  missing = np.arange(30) % 3 == 0
  some = np.where(missing, -7, query_labels)
  settings = {"ranks": (1, 10), "authors_query_batch": 8}
  found = retrieval(database, labels, queries, some, **settings)
  known = retrieval(
    database, labels, queries[~missing], query_labels[~missing], **settings
  )
  assert_same(found, known, 1e-12)


def test_retrieval_ranks_database_rows_without_a_label_as_relevant_to_none():
  database, labels, queries, query_labels = blobs()
  missing = np.arange(len(labels)) % 3 == 0
  foreign = np.where(missing, 99, labels)
  for values in (-1, -np.arange(1, len(labels) + 1)):
    some = np.where(missing, values, labels)
    found = retrieval(database, some, queries, query_labels, ranks=(1, 10))
    expected = retrieval(database, foreign, queries, query_labels, ranks=(1, 10))
    assert_same(found, expected, 1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_retrieval_takes_device_arrays_of_every_dtype(dtype):
  data = [jnp.asarray(array) for array in blobs()]
  data[0], data[2] = data[0].astype(dtype), data[2].astype(dtype)
  rounded = [np.asarray(array.astype(jnp.float32)) for array in (data[0], data[2])]
  expected = retrieval(rounded[0], data[1], rounded[1], data[3], ranks=(1,))
  assert_same(retrieval(*data, ranks=(1,)), expected)


def test_retrieval_mixes_precisions_under_x64(x64):
  database, labels, queries, query_labels = blobs()
  found = retrieval(
    database.astype(np.float32), labels, queries, query_labels, ranks=(1,)
  )
  assert 0.4 < found.mean_average_precision < 1


def test_retrieval_reports_progress(monkeypatch):
  monkeypatch.setattr(_ranking, "_DISTANCES_AT_ONCE", 90 * 16)
  calls = []
  retrieval(*blobs(), ranks=(1,), progress=lambda *call: calls.append(call))
  assert calls == [(16, 40), (32, 40), (40, 40)]


def test_retrieval_passes_on_what_progress_raises():
  def interrupt(done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    retrieval(*blobs(), ranks=(1,), progress=interrupt)


def replaced(position, array):
  data = blobs()
  data[position] = array(data[position])
  return data


def with_nan(array):
  array[[3, 5], 1] = np.nan
  return array


@pytest.mark.parametrize(
  ("position", "change", "error", "message"),
  [
    (0, with_nan, ValueError, "database: expected finite.*in 2 of 90 rows.*row 3"),
    (2, with_nan, ValueError, "queries: expected finite.*diverged"),
    (0, lambda a: a[:0], ValueError, "database: expected a non-empty array"),
    (2, lambda a: a[:0], ValueError, "queries: expected a non-empty array"),
    (2, lambda a: a[:, :0], ValueError, "queries: expected a non-empty array"),
    (2, lambda a: a[:, :5], ValueError, "database has 6 columns and queries has 5"),
    (0, lambda a: a[:, :, None], ValueError, r"database: expected .*\[rows, dim\]"),
    (0, lambda a: a.astype(int), TypeError, "database: expected a floating-point"),
    (1, lambda a: a[1:], ValueError, r"database_labels: expected shape \(90,\)"),
    (3, lambda a: a[:, None], ValueError, r"query_labels: expected shape \(40,\)"),
    (1, lambda a: a * 1.0, TypeError, "database_labels: expected integer"),
    (3, lambda a: a * 1.0, TypeError, "query_labels: expected integer"),
    (3, lambda a: a + 9, ValueError, "query_labels: expected classes.*from 0 to 3"),
  ],
)
def test_retrieval_rejects_bad_arrays(position, change, error, message):
  with pytest.raises(error, match=message):
    retrieval(*replaced(position, change), ranks=(1,))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, r"ranks: expected numbers from 1 to 90.*got \[100\]"),
    ({"ranks": (0, 2, 2.5)}, r"ranks: .*got \[0, 2.5\]"),
    ({"metric": "manhattan"}, "metric: expected one of 'euclidean', 'cosine'"),
    ({"authors_query_batch": 0}, "authors_query_batch: expected a number above 0"),
  ],
)
def test_retrieval_rejects_bad_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    retrieval(*blobs(), **settings)


def test_retrieval_refuses_the_database_as_queries():
  features, labels, *_ = blobs()
  for queries, query_labels in ((features, labels), (features.copy(), labels.tolist())):
    with pytest.raises(ValueError, match="other examples than the database, got the"):
      retrieval(features, labels, queries, np.asarray(query_labels), ranks=(1,))


def test_retrieval_warns_of_queries_that_are_in_the_database():
  database, labels, queries, query_labels = blobs()
  with pytest.warns(UserWarning, match="20 of 20 queries are rows of the database"):
    retrieval(database, labels, database[:20], labels[:20], ranks=(1,))
  # Another order is the same set.
  with pytest.warns(UserWarning, match="90 of 90 queries are rows"):
    retrieval(database, labels, database[::-1], labels[::-1], ranks=(1,))
  mixed = np.concatenate([database[:19], queries[:20]])
  retrieval(database, labels, mixed, np.r_[labels[:19], query_labels[:20]], ranks=(1,))


def test_retrieval_bears_codes_that_examples_share():
  codes, labels, other, other_labels = blobs()
  codes, other = np.sign(codes - 3), np.sign(other - 3)
  retrieval(codes, labels, other, other_labels, ranks=(1,))


@pytest.mark.parametrize("backend", ["cpu", "another"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("mode", ["loo", "split"])
def test_retrieval_has_the_metrics_of_metric_learning(
  mode, metric, backend, monkeypatch
):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  stored = np.load(GOLDEN / "nearest_retrieval_1.npz")
  rows, labels = stored["embeddings"].astype(np.float32), stored["labels"]
  ranks, split = stored["recall_ks"].tolist(), int(stored["split"])
  data = [rows, labels]
  if mode == "split":
    data = [rows[split:], labels[split:], rows[:split], labels[:split]]
  found = retrieval(*data, metric=metric, ranks=ranks)
  for name in (
    "mean_average_precision",
    "mean_average_precision_at_r",
    "mean_reciprocal_rank",
    "r_precision",
  ):
    expected = stored[f"{metric}_{mode}_pml_{name}"]
    np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9)
  expected = stored[f"{metric}_{mode}_recall_at_k"]
  np.testing.assert_allclose([*found.recall_at.values()], expected)


@pytest.mark.parametrize("backend", ["cpu", "another"])
def test_retrieval_leaves_each_row_out_by_its_position(backend, monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  rows = np.float32([[1, 0], [1, 0], [7, 7], [3, 3], [9, 9], [2, 0]])
  found = retrieval(rows, np.array([0, 0, 1, 1, 2, -1]), ranks=(1, 2, 5))
  # Rows 0 and 1 find each other first; row 2 finds row 4 of no use before row 3; row 3
  # finds four rows nearer than row 2.
  assert found.unmatched_queries == 1
  assert found.precision_at == {1: 0.5, 2: 0.375, 5: 0.2}
  assert found.recall_at == {1: 0.5, 2: 0.75, 5: 1.0}
  nearest = evaluation.nearest_retrieval(
    rows, np.array([0, 0, 1, 1, 2, -1]), ranks=(1, 2, 5)
  )
  assert nearest.recall_at == found.recall_at
  assert nearest.precision_at == found.precision_at


def test_retrieval_takes_queries_with_labels_or_neither():
  database, labels, queries, _ = blobs()
  with pytest.raises(ValueError, match="query_labels: expected an array.*got None"):
    retrieval(database, labels, queries)
  with pytest.raises(ValueError, match="database_labels: expected a class of at least"):
    retrieval(database[:3], np.arange(3), ranks=(1,))
  with pytest.raises(ValueError, match="ranks: expected numbers from 1 to 89"):
    retrieval(database, labels, ranks=(90,))

"""Recall, R-precision and MAP@R: golden values, leave-one-out, files on disk."""

import pathlib
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import evaluation
from flowkd_jax.evaluation import _nearest_blocks
from flowkd_jax.evaluation import _stored_rows

GOLDEN = np.load(
  pathlib.Path(__file__).parents[1] / "golden" / "nearest_retrieval_1.npz"
)
ROWS = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
LABELS = np.arange(30) % 7


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("mode", ["loo", "split"])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_metrics_are_those_of_pytorch_metric_learning(
  metric, mode, backend, monkeypatch
):
  sizes = (7, 5)
  monkeypatch.setattr(_nearest_blocks, "_ON_CPU", sizes)
  monkeypatch.setattr(_nearest_blocks, "_ELSEWHERE", sizes)
  monkeypatch.setattr("jax.default_backend", lambda: backend)
  rows, labels = GOLDEN["embeddings"].astype(np.float32), GOLDEN["labels"]
  split, ranks = int(GOLDEN["split"]), GOLDEN["recall_ks"].tolist()
  sets = [rows, labels]
  if mode == "split":
    sets = [rows[split:], labels[split:], rows[:split], labels[:split]]
  found = evaluation.nearest_retrieval(*sets, metric=metric, ranks=ranks)
  expected = lambda name: GOLDEN[f"{metric}_{mode}_{name}"]
  for name, theirs in (
    ("r_precision", "r_precision"),
    ("mean_average_precision_at_r", "mean_average_precision_at_r"),
  ):
    np.testing.assert_allclose(
      getattr(found, name), expected(f"pml_{theirs}"), rtol=1e-12
    )
  np.testing.assert_allclose(found.precision_at[1], expected("pml_precision_at_1"))
  np.testing.assert_allclose([*found.recall_at.values()], expected("recall_at_k"))
  assert found.counted_queries == expected("counted").sum()


def test_queries_leave_themselves_out_by_position_and_keep_duplicates():
  rows = np.float32([[1, 0], [1, 0], [1, 0], [3, 3], [9, 9]])
  found = evaluation.nearest_retrieval(rows, [0, 0, 1, 1, 2], ranks=(1, 2, 4))
  # Rows 0 and 1 find each other first, before row 2; row 3 finds two rows of another
  # class first; row 2 too; row 4 has nothing to find.
  assert found.recall_at == {1: 0.5, 2: 0.5, 4: 1.0}
  assert found.precision_at[4] == 0.25
  assert (found.counted_queries, found.unmatched_queries) == (4, 1)


def test_ranks_may_be_none_and_of_any_type_of_number():
  found = evaluation.nearest_retrieval(ROWS, LABELS, ranks=())
  assert (found.recall_at, found.precision_at) == ({}, {})
  same = evaluation.nearest_retrieval(ROWS, LABELS, ranks=np.array([1.0, 5.0]))
  assert [*same.recall_at] == [1, 5]
  assert same.r_precision == found.r_precision


def test_rows_at_equal_distance_come_in_their_order():
  rows = np.ones((4, 2), np.float32)
  for metric in ("euclidean", "cosine"):
    found = evaluation.nearest_retrieval(
      rows, [0, 1, 1, 0], rows[:1], [1], metric=metric, ranks=(1, 2, 3)
    )
    assert found.recall_at == {1: 0.0, 2: 1.0, 3: 1.0}


def test_codes_at_equal_distance_come_in_their_order():
  rng = np.random.default_rng(0)
  codes, labels = rng.integers(-2, 3, (60, 3)), rng.integers(0, 6, 60)
  distances = ((codes[:, None] - codes[None]) ** 2).sum(-1)
  np.fill_diagonal(distances, 99)
  nearest = np.argsort(distances, axis=1, kind="stable")[:, :3]
  hits = labels[nearest] == labels[:, None]
  for offset in (0, 1000):
    rows = (codes + offset).astype(np.float32)
    found = evaluation.nearest_retrieval(rows, labels, ranks=(1, 3))
    np.testing.assert_allclose(found.precision_at[3], hits.mean())
    np.testing.assert_allclose(found.precision_at[1], hits[:, 0].mean())


def test_cosines_do_not_depend_on_the_sizes_of_rows():
  sizes = np.float32(10.0) ** np.random.default_rng(0).integers(-30, 30, (30, 1))
  rows = (ROWS * sizes).astype(np.float32)
  found = [
    evaluation.nearest_retrieval(each, LABELS, metric="cosine", ranks=(1, 5))
    for each in (ROWS, rows)
  ]
  assert found[0].recall_at == found[1].recall_at
  assert found[0].r_precision == found[1].r_precision


def test_missing_labels_and_classes_are_left_out():
  labels = np.where(np.arange(30) < 5, -1, LABELS)
  found = evaluation.nearest_retrieval(
    ROWS, labels, ROWS[:4] + 0.1, [-1, 99, 6, 6], ranks=(1, 30)
  )
  assert (found.counted_queries, found.unmatched_queries) == (2, 1)
  assert found.recall_at[30] == 1
  counted = evaluation.nearest_retrieval(
    ROWS, labels, ROWS[2:4] + 0.1, [6, 6], ranks=(1,)
  )
  assert counted.r_precision == found.r_precision


def test_files_give_what_arrays_give(tmp_path, monkeypatch):
  monkeypatch.setattr(_stored_rows, "_BYTES_AT_ONCE", 300)
  monkeypatch.setattr(_nearest_blocks, "_ON_CPU", (8, 4))
  monkeypatch.setattr(_nearest_blocks, "_KEPT_BYTES", 400)  # several passes
  rows, labels = tmp_path / "rows.npy", tmp_path / "labels.npy"
  np.save(rows, ROWS)
  np.save(labels, LABELS)
  calls = []
  stored = evaluation.nearest_retrieval(
    rows, str(labels), ranks=(1, 3), progress=lambda *done: calls.append(done)
  )
  monkeypatch.undo()
  plain = evaluation.nearest_retrieval(ROWS, LABELS, ranks=(1, 3))
  for name, value in vars(plain).items():
    assert vars(stored)[name] == pytest.approx(value), name
  assert len(calls) > 1
  assert calls[-1] == (30, 30)


def test_memory_does_not_grow_with_a_database_on_disk(tmp_path, monkeypatch):
  monkeypatch.setattr(_nearest_blocks, "_ON_CPU", (512, 64))
  monkeypatch.setattr(_stored_rows, "_BYTES_AT_ONCE", 2**17)
  peaks = []
  for size in (4_000, 32_000):
    path = tmp_path / f"{size}.npy"
    np.save(path, np.random.default_rng(0).standard_normal((size, 32), np.float32))
    labels = np.arange(size) % (size // 4)
    tracemalloc.start()
    evaluation.nearest_retrieval(path, labels, ROWS[:, :1] + np.ones(32, "f4"), LABELS)
    peaks.append(tracemalloc.get_traced_memory()[1] - 8 * 4 * size)
    tracemalloc.stop()
  assert peaks[1] < peaks[0] + 2**20  # the larger database has 3.5 MiB more


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_features_of_any_scale_and_offset_keep_their_neighbours(scale):
  offset = evaluation.nearest_retrieval(scale * (ROWS + 1000), LABELS, ranks=(1,))
  plain = evaluation.nearest_retrieval(ROWS, LABELS, ranks=(1,))
  assert offset.r_precision == plain.r_precision
  half = (ROWS / 8).astype(np.float16)
  assert 0 <= evaluation.nearest_retrieval(half, LABELS, ranks=(2,)).r_precision <= 1


def test_what_cannot_be_measured_is_refused(tmp_path):
  measure = evaluation.nearest_retrieval
  with pytest.raises(ValueError, match="queries: expected other examples.*leave"):
    measure(ROWS, LABELS, ROWS.copy(), LABELS)
  with pytest.raises(ValueError, match="query_labels: expected an array.*got None"):
    measure(ROWS, LABELS, ROWS)
  with pytest.raises(ValueError, match="queries: expected an array.*got None"):
    measure(ROWS, LABELS, None, LABELS)
  with pytest.raises(ValueError, match="ranks: expected numbers from 1 to 29"):
    measure(ROWS, LABELS, ranks=(30,))
  with pytest.raises(ValueError, match="row of their class to find, got none"):
    measure(ROWS, np.arange(30), ranks=(1,))
  broken = ROWS.copy()
  broken[17, 1] = np.nan
  with pytest.raises(ValueError, match="database: .*infinity in row 17 of 30"):
    measure(broken, LABELS, ranks=(1,))
  with pytest.raises(ValueError, match="database has 4 columns and queries has 3"):
    measure(ROWS, LABELS, ROWS[:, :3], LABELS, ranks=(1,))
  with pytest.raises(TypeError, match="database: expected a floating-point"):
    measure(ROWS.astype(int), LABELS)
  stored = tmp_path / "bfloat16.npy"
  np.save(stored, np.asarray(jnp.asarray(ROWS, jnp.bfloat16)))
  with pytest.raises(TypeError, match=r"database: .*bfloat16\.npy.*astype"):
    measure(stored, LABELS)
  path = tmp_path / "rows.npz"
  np.savez(path, rows=ROWS)
  with pytest.raises(ValueError, match=r"database: .*rows\.npz, an archive"):
    measure(path, LABELS)
  path.write_text("no array")
  with pytest.raises(ValueError, match=r"database: .*rows\.npz, which cannot be read"):
    measure(path, LABELS)
  path.write_bytes(b"")
  for unreadable in (path, tmp_path):  # an empty file, and a folder
    with pytest.raises(ValueError, match=r"database: .* which cannot be read as one"):
      measure(unreadable, LABELS)
  with pytest.raises(FileNotFoundError, match=r"nowhere\.npy"):
    measure(tmp_path / "nowhere.npy", LABELS)

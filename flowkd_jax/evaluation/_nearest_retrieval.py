"""Retrieval metrics of metric learning, which need only the nearest rows."""

import dataclasses
import functools
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics.checks import check_choice
from flowkd_jax.evaluation import _nearest_blocks
from flowkd_jax.evaluation import _stored_rows
from flowkd_jax.evaluation._ranking import check_ranks
from flowkd_jax.evaluation._rows import METRICS
from flowkd_jax.evaluation._rows import Metric
from flowkd_jax.evaluation._rows import check_both_or_none

_MARKED_AT_ONCE = 2**22

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, eq=False)
class NearestRetrievalMetrics:
  """Means over the queries that have a relevant row, as fractions of 1.

  Attributes:
    recall_at: Share of queries with a relevant row among the first k rows, for each k
      of `ranks`. This is recall@k of metric learning.
    precision_at: Share of relevant rows among the first k, for each k of `ranks`.
    r_precision: Share of relevant rows among the first R rows, where R is the number of
      relevant rows of the query.
    mean_average_precision_at_r: MAP@R, the sum of the precisions at the ranks of the
      relevant rows among the first R rows, divided by R.
    counted_queries: Number of queries in the means.
    unmatched_queries: Number of queries without a relevant row, which are left out.
  """

  recall_at: dict[int, float]
  precision_at: dict[int, float]
  r_precision: float
  mean_average_precision_at_r: float
  counted_queries: int
  unmatched_queries: int


def nearest_retrieval(
  database: Float[ArrayLike, "database dim"] | Path,
  database_labels: Int[ArrayLike, " database"] | Path,
  queries: Float[ArrayLike, "queries dim"] | Path | None = None,
  query_labels: Int[ArrayLike, " queries"] | Path | None = None,
  *,
  metric: Metric = "euclidean",
  ranks: Sequence[int] = (1, 10, 100),
  progress: Callable[[int, int], None] | None = None,
) -> NearestRetrievalMetrics:
  """Measure recall@k, R-precision and MAP@R from the nearest rows of each query.

  The metrics are those of pytorch-metric-learning (Musgrave et al. 2020, section 4.4).
  Without `queries`, each row of the database is a query against all other rows
  (leave-one-out, as on CUB, Cars and Stanford Online Products). The row itself is left
  out by its position, so duplicates of it stay. `retrieval` ranks the whole database
  instead.

  A database row is relevant if it has the label of the query. A query without a
  relevant row is left out of the means; `unmatched_queries` is the number of these
  queries. Queries without a label (a negative number) are left out, too. Database rows
  without a label are never relevant. Of rows at equal distance, the earlier one comes
  first. A row of zeros has cosine 0 to every row.

  Features may be paths of `.npy` files, which are read block by block, a few times.
  Memory then grows with the database only by 8 bytes per row, for the labels. The
  number of rows kept for each query is the maximum of `ranks` and R. The function runs
  on the host, not under `jit`, in float32. Distances are computed by NumPy on a CPU,
  otherwise on the default JAX device.

  Args:
    database: Features of the database, or the path of a `.npy` file.
    database_labels: Classes of the database rows, or a path. Any integers from 0;
      negative numbers mean no label.
    queries: Features of the queries, or a path. None for leave-one-out.
    query_labels: Classes of the queries, or a path.
    metric: "euclidean" or "cosine".
    ranks: Ranks of recall and precision; each from 1 to the number of rows that
      a query is compared with.
    progress: Function that is called with (queries done, queries to do) now and then.

  Raises:
    ValueError: If shapes disagree, an array is empty, a feature is not finite, a label
      is 2^63 or above, or a file is not a `.npy` file. If a rank exceeds the database,
      no query has a relevant row, or the queries equal the database.
    TypeError: If features are not floating point or labels are not integers.
    FileNotFoundError: If there is no such file.

  Example:
    >>> import numpy as np
    >>> rows, labels = np.float32([[0.0], [1.0], [5.0], [5.5]]), np.array([0, 0, 1, 1])
    >>> found = nearest_retrieval(rows, labels, ranks=(1, 3))
    >>> found.recall_at, found.r_precision
    ({1: 1.0, 3: 1.0}, 1.0)

  References:
    Musgrave, Belongie and Lim, "A metric learning reality check", ECCV 2020.
  """
  check_choice("metric", metric, METRICS)
  stored = _stored_rows.stored_rows(
    "database", database, database_labels, "database_labels"
  )
  asked = _asked(stored, queries, query_labels)
  check_ranks(ranks, len(stored.rows) - (queries is None))
  ranks = [int(rank) for rank in ranks]
  most = max(ranks, default=1)
  scaling = _stored_rows.scaling_of(
    metric, stored, None if queries is None else asked.stored
  )
  totals, done = np.zeros(2 + 2 * len(ranks)), 0
  for group in _groups(asked, most):
    found = _nearest(stored, asked, group, scaling, most)
    totals += _summed(found, stored, asked, group, ranks)
    done += len(group)
    if progress is not None:
      progress(done, len(asked.order))
  means = (totals / len(asked.order)).tolist()
  return NearestRetrievalMetrics(
    recall_at=dict(zip(ranks, means[2 : 2 + len(ranks)], strict=True)),
    precision_at=dict(zip(ranks, means[2 + len(ranks) :], strict=True)),
    r_precision=means[0],
    mean_average_precision_at_r=means[1],
    counted_queries=len(asked.order),
    unmatched_queries=asked.unmatched,
  )


class _Asked(NamedTuple):
  """Queries with their numbers of relevant rows.

  Attributes:
    stored: Features and labels.
    own: Position of each query in the database; -1 if it is not in the database.
    relevant: Number of relevant rows of each query.
    order: Queries that count, sorted by their numbers of relevant rows.
    unmatched: Number of queries with a label but without a relevant row.
  """

  stored: _stored_rows.StoredRows
  own: Int[np.ndarray, " queries"]
  relevant: Int[np.ndarray, " queries"]
  order: Int[np.ndarray, " counted"]
  unmatched: int


def _asked(database, queries, query_labels) -> _Asked:
  check_both_or_none(queries, query_labels)
  if queries is None:
    asked, own = database, np.arange(len(database.rows))
  else:
    asked = _stored_rows.stored_rows("queries", queries, query_labels, "query_labels")
    own = np.full(len(asked.rows), -1)
    _check_apart(database, asked)
  classes, counts = np.unique(database.labels[database.labels >= 0], return_counts=True)
  places = np.searchsorted(classes, asked.labels)
  known = np.append(classes, -1)[places] == asked.labels
  relevant = np.where(known, np.append(counts, 0)[places], 0) - (own >= 0)
  relevant = np.where(asked.labels < 0, 0, relevant)
  order = np.argsort(relevant, kind="stable")
  order = order[relevant[order] > 0]
  if not order.size:
    raise ValueError(
      "query_labels: expected queries with a row of their class to find, got none; "
      "number the classes of both sets alike, or take more rows of each class"
    )
  unmatched = np.count_nonzero((relevant == 0) & (asked.labels >= 0))
  return _Asked(asked, own, relevant, order, int(unmatched))


def _check_apart(database, queries):
  if database.rows.shape[1] != queries.rows.shape[1]:
    raise ValueError(
      "expected features of one width, but database has "
      f"{database.rows.shape[1]} columns and queries has {queries.rows.shape[1]}; take "
      "both at the same tap of the same model"
    )
  if not np.array_equal(database.labels, queries.labels):
    return
  if all(
    np.array_equal(database.rows[block], queries.rows[block])
    for block in _stored_rows.blocks(database.rows)
  ):
    raise ValueError(
      "queries: expected other examples than the database, got the same ones: every "
      "query would find itself first; leave queries and query_labels out, so that each "
      "row is compared with the others"
    )


def _groups(asked: _Asked, most: int) -> Iterator[Int[np.ndarray, " group"]]:
  """Yield groups of queries that are processed in one pass over the database."""
  end = len(asked.order)
  while end:
    count = max(most, int(asked.relevant[asked.order[end - 1]]))
    start = max(0, end - _nearest_blocks.group_size(count))
    yield np.sort(asked.order[start:end])
    end = start


def _nearest(database, asked, group, scaling, most) -> Int[np.ndarray, "group count"]:
  def blocks(size):
    for start in range(0, len(database.rows), size):
      rows = scaling.scaled(database.rows[start : start + size])
      squares = np.zeros(len(rows))
      if scaling.metric == "euclidean":
        squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
      yield np.concatenate([rows, squares[:, None].astype(np.float32)], 1)

  return _nearest_blocks.nearest_in_blocks(
    scaling.scaled(asked.stored.rows[group]),
    asked.own[group],
    blocks,
    max(most, int(asked.relevant[group].max())),
    backend=jax.default_backend(),
  )


def _summed(found, database, asked, group, ranks) -> Float[np.ndarray, " sums"]:
  """Sums over a group of R-precision, MAP@R, and recall and precision at the ranks."""
  size = max(1, _MARKED_AT_ONCE // found.shape[1])
  parts = []
  for first in range(0, len(group), size):
    some = group[first : first + size]
    labels = asked.stored.labels[some]
    marked = database.labels[found[first : first + size]] == labels[:, None]
    parts.append(_sums(marked, asked.relevant[some], ranks))
  return functools.reduce(np.add, parts)


def _sums(
  marked: Bool[np.ndarray, "queries count"],
  relevant: Int[np.ndarray, " queries"],
  ranks: Sequence[int],
) -> Float[np.ndarray, " sums"]:
  hits = marked.cumsum(axis=1)
  counted = marked & (np.arange(marked.shape[1]) < relevant[:, None])
  precision = hits / np.arange(1, marked.shape[1] + 1)
  at_ranks = hits[:, np.asarray(ranks, np.int64) - 1]
  return np.concatenate(
    [
      [(counted.sum(1) / relevant).sum()],
      [((precision * counted).sum(1) / relevant).sum()],
      (at_ranks > 0).sum(0),
      (at_ranks / np.asarray(ranks, np.float64)).sum(0),
    ]
  )

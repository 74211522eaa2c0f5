"""Retrieval metrics: a query should find the database rows of its class first."""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Array
from jaxtyping import ArrayLike
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics.checks import check_count
from flowkd_jax.evaluation._overlap import check_apart
from flowkd_jax.evaluation._precision import RECALL_LEVELS
from flowkd_jax.evaluation._precision import Sums
from flowkd_jax.evaluation._precision import sum_precisions
from flowkd_jax.evaluation._ranking import Block
from flowkd_jax.evaluation._ranking import Ranking
from flowkd_jax.evaluation._ranking import check_ranks
from flowkd_jax.evaluation._ranking import collect_chunk
from flowkd_jax.evaluation._ranking import dispatch_chunk
from flowkd_jax.evaluation._ranking import prepare_ranking
from flowkd_jax.evaluation._rows import Metric
from flowkd_jax.evaluation._rows import check_both_or_none
from flowkd_jax.evaluation._rows import labelled_rows
from flowkd_jax.evaluation._rows import leave_one_out_rows

_MOST_THREADS = 8
_POSITIONS_OF_PIECE = 2**20  # number of ranks that a thread sums at a time


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalMetrics:
  """Means over queries, as fractions of 1.

  The fields with the prefix `authors_` are computed as by the code of "Heterogeneous
  Knowledge Distillation using Information Flow Modeling" (CVPR 2020), for comparison
  with published numbers. That code replaces the precision by its maximum over later
  ranks only in the first `authors_query_batch` ranks. For the last, shorter batch of n
  queries, it does so in the first n ranks. It reads the precision at the recall nearest
  to each level, above or below.

  Attributes:
    mean_average_precision: Mean over relevant rows of the precision at their ranks,
      which is the area under the precision-recall steps.
    interpolated_average_precision: Mean over recall 0, 0.1, ..., 1 of the maximum
      precision at ranks that reach this recall.
    precision_at: Share of relevant rows among the first k, for each k of `ranks`. At 1
      it is the accuracy of the nearest neighbour.
    recall_levels: Recall levels 0, 0.05, ..., 1.
    precision: Maximum precision at ranks that reach each recall level.
    authors_mean_average_precision: Mean over recall 0, 0.1, ..., 1.
    authors_precision_at: Partly interpolated precision of that code at `ranks`. At 1 it
      is not the accuracy of the nearest neighbour.
    authors_precision: Precision of that code at `recall_levels`.
    authors_raw_precision: Partly interpolated precision of that code at every rank.
    unmatched_queries: Number of queries whose class is not in the database.
    recall_at: Share of queries with a relevant row among the first k, for each k of
      `ranks`. This field and the next three are means over the queries whose class is
      in the database, as in metric learning.
    mean_reciprocal_rank: Mean inverse rank of the first relevant row.
    r_precision: Share of relevant rows among the first R rows, where R is the number of
      relevant rows of the query.
    mean_average_precision_at_r: MAP@R, the sum of the precisions at the ranks of the
      relevant rows among the first R rows, divided by R.
  """

  mean_average_precision: float
  interpolated_average_precision: float
  precision_at: dict[int, float]
  recall_levels: Float[np.ndarray, " levels"]
  precision: Float[np.ndarray, " levels"]
  authors_mean_average_precision: float
  authors_precision_at: dict[int, float]
  authors_precision: Float[np.ndarray, " levels"]
  authors_raw_precision: Float[np.ndarray, " database"] = dataclasses.field(repr=False)
  unmatched_queries: int
  recall_at: dict[int, float]
  mean_reciprocal_rank: float
  r_precision: float
  mean_average_precision_at_r: float


def retrieval(
  database: Float[ArrayLike, "database dim"],
  database_labels: Int[ArrayLike, " database"],
  queries: Float[ArrayLike, "queries dim"] | None = None,
  query_labels: Int[ArrayLike, " queries"] | None = None,
  *,
  metric: Metric = "euclidean",
  ranks: Sequence[int] = (1, 10, 100),
  authors_query_batch: int = 128,
  progress: Callable[[int, int], None] | None = None,
) -> RetrievalMetrics:
  """Rank the whole database for each query and measure precision and recall.

  A database row is relevant if it has the label of the query. At equal distance,
  relevant rows come after other rows: the order is deterministic, and a model that maps
  everything to one point has no advantage. A row of zeros has cosine 0 to every row. A
  query whose class is not in the database counts as 0 in every mean;
  `unmatched_queries` is the number of these queries. Queries without a label (a
  negative number) are left out of every mean. Database rows without a label are ranked,
  but never relevant.

  Without `queries`, each labelled row of the database is a query against all other rows
  (leave-one-out). The row itself is left out by its position, so duplicates of it stay.
  A query without another row of its class is left out of every mean, and
  `unmatched_queries` counts it. If only the nearest rows matter, as for recall@k,
  R-precision and MAP@R, use `nearest_retrieval`: it is faster, and reads files that do
  not fit in memory.

  A query that is in the database finds itself first. Queries that equal the database
  are an error. If at least half of the queries are in the database, and all its rows
  differ, `UserWarning` is given.

  The function runs on the host, not under `jit`. Distances are computed on the default
  JAX device in float32, or in float64 if the features are float64 under x64; the ranks
  are exact for these distances. Ranking 50,000 rows for 10,000 queries, as for
  CIFAR-10, needs less than 1 GB on a CPU. Other devices rank as many queries at a time
  as fit into half of their free memory.

  Args:
    database: Features of the database, usually of the training set.
    database_labels: Classes of the database rows, any integers from 0; negative numbers
      mean no label.
    queries: Features of the queries, usually of the test set. None for leave-one-out.
    query_labels: Classes of the queries.
    metric: "euclidean" or "cosine".
    ranks: Ranks at which precision and recall are reported, each from 1 to the number
      of rows that a query is compared with.
    authors_query_batch: Batch size of queries in the authors' code, on which their
      metric depends; the published numbers used 128. If the database has fewer rows,
      their code fails, and this function interpolates over all ranks.
    progress: Called with (queries done, queries to do) now and then, from the
      calling thread.

  Raises:
    ValueError: If shapes disagree, an array is empty, a feature is not finite, a
      rank exceeds the database, the two sets share no class or are the same, or, for
      leave-one-out, no class has two rows.
    TypeError: Unless features are floating and labels are integer.
  """
  check_count("authors_query_batch", authors_query_batch)
  check_both_or_none(queries, query_labels)
  if queries is None:
    rows = leave_one_out_rows(database, database_labels, metric)
  else:
    rows = labelled_rows(database, database_labels, queries, query_labels, metric)
    check_apart(rows)
  asked, available = len(rows.queries), len(rows.database) - (queries is None)
  check_ranks(ranks, available)
  batch = np.arange(asked) // authors_query_batch * authors_query_batch
  lengths = np.minimum(asked - batch, authors_query_batch)
  lengths = np.minimum(lengths, available)
  backend = jax.default_backend()
  ranking = prepare_ranking(rows, metric, backend=backend)
  sums = _sum_over_queries(ranking, lengths, available, backend, progress)
  unmatched = int(np.count_nonzero(rows.query_classes < 0))
  matched = asked - unmatched
  asked = matched if queries is None else asked
  plain = sums.hits.cumsum() / (asked * np.arange(1, available + 1))
  found = sums.firsts.cumsum() / matched
  raw = plain.copy()
  raw[: sums.authors_head.size] = sums.authors_head / asked
  curve = sums.curve / asked
  return RetrievalMetrics(
    mean_average_precision=float(sums.average / asked),
    interpolated_average_precision=float(curve[::2].mean()),
    precision_at={int(rank): float(plain[int(rank) - 1]) for rank in ranks},
    recall_levels=RECALL_LEVELS.copy(),
    precision=curve,
    authors_mean_average_precision=float(sums.authors_average / asked),
    authors_precision_at={int(rank): float(raw[int(rank) - 1]) for rank in ranks},
    authors_precision=sums.authors_curve / asked,
    authors_raw_precision=raw,
    unmatched_queries=unmatched,
    recall_at={int(rank): float(found[int(rank) - 1]) for rank in ranks},
    mean_reciprocal_rank=float(sums.reciprocal / matched),
    r_precision=float(sums.r_precision / matched),
    mean_average_precision_at_r=float(sums.average_at_r / matched),
  )


def _sum_over_queries(
  ranking: Ranking,
  lengths: Int[np.ndarray, " queries"],
  available: int,
  backend: str,
  progress: Callable[[int, int], None] | None,
) -> Sums:
  """Sums of all chunks, always added in the same order."""
  head = lengths.max()

  def sums_of(blocks: Sequence[Block]) -> tuple[int, Sums]:
    """Number of queries in some blocks, and their sums."""
    sums = (
      sum_precisions(block.positions, lengths[block.queries], available, head)
      for block in blocks
    )
    return sum(len(block.queries) for block in blocks), functools.reduce(_add, sums)

  def sums_of_chunk(start: int, rows: Array) -> tuple[int, Sums]:
    return sums_of(collect_chunk(ranking, start, rows, backend=backend))

  dispatched = (
    (start, dispatch_chunk(ranking, start, backend=backend)) for start in ranking.starts
  )
  if backend == "cpu":  # NumPy sorts a chunk in each thread.
    parts = _in_threads(sums_of_chunk, dispatched)
  else:
    parts = _in_threads(sums_of, _pieces(ranking, dispatched, backend))
  return functools.reduce(_add, _reported(parts, len(ranking.order), progress))


def _pieces(
  ranking: Ranking, dispatched: Iterable[tuple[int, Array]], backend: str
) -> Iterator[tuple[list[Block]]]:
  """Yield ranked queries in pieces for the threads.

  One chunk is dispatched ahead, so that the device ranks while threads sum.
  """
  ahead = [*itertools.islice(dispatched, 1)]
  while ahead:
    start, rows = ahead.pop()
    ahead += itertools.islice(dispatched, 1)
    for block in collect_chunk(ranking, start, rows, backend=backend):
      size = max(1, _POSITIONS_OF_PIECE // block.positions.shape[1])
      for first in range(0, len(block.queries), size):
        piece = slice(first, first + size)
        yield ([Block(block.queries[piece], block.positions[piece])],)


def _in_threads(
  work: Callable[..., tuple[int, Sums]], arguments: Iterable[tuple]
) -> Iterator[tuple[int, Sums]]:
  """Yield results in order; few arguments wait at a time, because they are large.

  Arguments are made in the calling thread, because JAX's context managers apply only to
  the thread that entered them.
  """
  threads = min(os.cpu_count() or 1, _MOST_THREADS)
  waiting = collections.deque()
  with ThreadPoolExecutor(threads) as pool:
    for argument in arguments:
      waiting.append(pool.submit(work, *argument))
      if len(waiting) > threads:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()


def _reported(
  parts: Iterable[tuple[int, Sums]],
  total: int,
  progress: Callable[[int, int], None] | None,
) -> Iterator[Sums]:
  """Yield sums, and call `progress` for each."""
  done = 0
  for queries, part in parts:
    done += queries
    if progress is not None:
      progress(done, total)
    yield part


def _add(first: Sums, second: Sums) -> Sums:
  return jax.tree.map(np.add, first, second)

"""Ranks of the relevant rows in a database that is sorted by distance.

Distances to relevant rows and distances to other rows are sorted separately, and ranks
are found by binary search. This is exact, needs no sorting of indices, and ranks other
rows before relevant rows at equal distance.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax.evaluation._rows import Metric
from flowkd_jax.evaluation._rows import Rows
from flowkd_jax.evaluation._rows import coarse_centre
from flowkd_jax.evaluation._rows import unit_rows

_DISTANCES_AT_ONCE = 2**23  # on a CPU; larger arrays do not fit into its caches
_UNKNOWN_AT_ONCE = 2**26  # on a device that does not report its memory
_MOST_AT_ONCE = 2**30  # on any device, as indices have 32 bits
_COPIES = 6  # number of arrays of the size of the distances that sorting needs


class Ranking(NamedTuple):
  """Arrays that are needed to rank a chunk of queries.

  Attributes:
    database: Database rows, sorted by class, on the device.
    squares: Numbers that are added to -2 <query, row> to give distances.
    queries: Queries with a class of the database, sorted by class, padded with zeros to
      whole chunks.
    order: Positions of these queries in the caller's array; none for padding.
    spans: First row and end of each query's class in the database.
    chunk: Number of queries to rank at a time.
    own: Database column of each query, which is left out; -1 for padding. None if the
      queries are not database rows.
  """

  database: Float[Array, "database dim"]
  squares: Float[Array, " database"]
  queries: Float[np.ndarray, "padded dim"]
  order: Int[np.ndarray, " queries"]
  spans: Int[np.ndarray, "queries 2"]
  chunk: int
  own: Int[np.ndarray, " padded"] | None

  @property
  def starts(self) -> range:
    """First query of each chunk."""
    return range(0, len(self.order), self.chunk)


class Block(NamedTuple):
  """Ranked queries of one class.

  Attributes:
    queries: Positions of the queries in the caller's array.
    positions: Ascending 0-based ranks of the relevant rows, for each query.
  """

  queries: Int[np.ndarray, " block"]
  positions: Int[np.ndarray, "block relevant"]


def check_ranks(ranks: Sequence[int], available: int) -> None:
  """Raise ValueError unless every rank exists in a database of this size."""
  wrong = [rank for rank in ranks if rank not in range(1, available + 1)]
  if wrong:
    raise ValueError(
      f"ranks: expected numbers from 1 to {available}, the size of the database, "
      f"got {wrong}; leave them out, for example with ranks=(1,)"
    )


def prepare_ranking(rows: Rows, metric: Metric, *, backend: str = "cpu") -> Ranking:
  """Sort both sets by class and express the metric by inner products.

  The squared norm of the query is left out, as it does not change ranks. Rows of the
  Euclidean metric are centred, because features with a large common offset would lose
  digits otherwise.

  Args:
    rows: Database and queries.
    metric: "euclidean" or "cosine".
    backend: JAX backend that ranks; it determines the chunk size.
  """
  database, queries = rows.database, rows.queries
  if metric == "cosine":
    database, queries = unit_rows(database), unit_rows(queries)
    squares = np.zeros(len(database))
  else:
    mean = database.mean(axis=0, dtype=np.float64)
    centre = coarse_centre(mean, database.min(0), database.max(0))
    centre = centre.astype(database.dtype)
    database, queries = database - centre, queries - centre
    squares = np.einsum("nd,nd->n", database, database, dtype=np.float64)
  by_class = np.argsort(rows.database_classes, kind="stable")
  counts = np.bincount(rows.database_classes)
  ends = counts.cumsum()
  order = np.argsort(rows.query_classes, kind="stable")
  order = order[rows.query_classes[order] >= 0]
  chunk = _chunk_size(len(order), len(database), database.dtype.itemsize, backend)
  padding = -len(order) % chunk
  own = None
  if rows.own is not None:
    columns = np.argsort(by_class)[rows.own[order]]
    own = np.pad(columns, (0, padding), constant_values=-1).astype(np.int32)
  return Ranking(
    database=jnp.asarray(database[by_class]),
    squares=jnp.asarray(squares[by_class].astype(database.dtype)),
    queries=np.pad(queries[order], ((0, padding), (0, 0))),
    order=order,
    spans=np.stack([ends - counts, ends], 1)[rows.query_classes[order]],
    chunk=chunk,
    own=own,
  )


def _chunk_size(queries: int, database: int, itemsize: int, backend: str) -> int:
  """Number of queries to rank at a time.

  Devices other than CPUs get as many queries as fit into half of the free memory, in
  chunks of nearly equal size.
  """
  if backend == "cpu":
    return int(np.clip(_DISTANCES_AT_ONCE // database, 8, queries))
  free = _free_bytes()
  fitting = _UNKNOWN_AT_ONCE if free is None else free // (2 * _COPIES * itemsize)
  most = int(np.clip(min(fitting, _MOST_AT_ONCE) // database, 8, queries))
  return -(-queries // -(-queries // most))


def _free_bytes() -> int | None:
  """Free memory of the default device in bytes; None if unknown."""
  (device,) = jnp.zeros(()).devices()
  known = device.memory_stats() or {}
  if "bytes_limit" not in known:
    return None
  return max(0, known["bytes_limit"] - known.get("bytes_in_use", 0))


def dispatch_chunk(
  ranking: Ranking, start: int, *, backend: str
) -> Shaped[Array, "chunk columns"]:
  """Send the chunk that begins at `start` to the device, without waiting.

  On "cpu", only distances are computed, because NumPy's vectorised sort is much faster
  than XLA's there. On other backends, XLA also sorts, and the result is ranks.
  """
  queries = jnp.asarray(ranking.queries[start : start + ranking.chunk])
  own = ranking.own
  own = None if own is None else jnp.asarray(own[start : start + ranking.chunk])
  if backend == "cpu":
    return _distances(queries, ranking.database, ranking.squares, own)
  spans = ranking.spans[start : start + ranking.chunk]
  spans = np.pad(spans, ((0, ranking.chunk - len(spans)), (0, 0)))
  return _sort_by_xla(
    queries,
    ranking.database,
    ranking.squares,
    own,
    jnp.asarray(spans.astype(np.int32)),
    width=int(np.diff(ranking.spans).max()),
  )


def collect_chunk(
  ranking: Ranking,
  start: int,
  rows: Shaped[Array, "chunk columns"],
  *,
  backend: str,
) -> list[Block]:
  """Wait for a result of `dispatch_chunk`; may run in several threads at once."""
  rows_here = np.asarray(rows)
  order = ranking.order[start : start + ranking.chunk]
  spans = ranking.spans[start : start + ranking.chunk]
  edges = np.flatnonzero(np.diff(spans[:, 0], prepend=-1, append=-1))
  blocks = []
  for first, last in zip(edges[:-1], edges[1:], strict=True):
    begin, end = spans[first]
    if backend == "cpu":
      positions = _sort_by_numpy(rows_here[first:last], begin, end)
    else:
      positions = rows_here[first:last, : end - begin]
    if ranking.own is not None:  # The query itself, at infinite distance, is last.
      positions = positions[:, :-1]
    blocks.append(Block(order[first:last], positions))
  return blocks


@jax.jit
def _distances(
  queries: Float[Array, "chunk dim"],
  database: Float[Array, "database dim"],
  squares: Float[Array, " database"],
  own: Int[Array, " chunk"] | None,
) -> Float[Array, "chunk database"]:
  """Distances up to a constant of each query, without TensorFloat-32.

  The distance of a query to itself is infinite.
  """
  products = jnp.matmul(queries, database.T, precision=lax.Precision.HIGHEST)
  distances = squares[None, :] - 2 * products
  if own is None:
    return distances
  columns = jnp.arange(database.shape[0], dtype=own.dtype)
  return jnp.where(own[:, None] == columns[None, :], jnp.inf, distances)


def _sort_by_numpy(
  distances: Float[np.ndarray, "block database"], begin: int, end: int
) -> Int[np.ndarray, "block relevant"]:
  """Ranks of the columns `begin` to `end`."""
  relevant = np.sort(distances[:, begin:end], axis=1)
  others = np.concatenate([distances[:, :begin], distances[:, end:]], axis=1)
  others.sort(axis=1)
  ahead = np.stack(
    [
      np.searchsorted(other, own, side="right")
      for other, own in zip(others, relevant, strict=True)
    ]
  )
  return ahead + np.arange(end - begin)


@functools.partial(jax.jit, static_argnames="width")
def _sort_by_xla(
  queries: Float[Array, "chunk dim"],
  database: Float[Array, "database dim"],
  squares: Float[Array, " database"],
  own: Int[Array, " chunk"] | None,
  spans: Int[Array, "chunk 2"],
  *,
  width: int,
) -> Int[Array, "chunk width"]:
  """Ranks of the columns in `spans`; entries beyond the end of a span are arbitrary."""
  distances = _distances(queries, database, squares, own)
  column = jnp.arange(distances.shape[1], dtype=spans.dtype)[None, :]
  is_relevant = (column >= spans[:, :1]) & (column < spans[:, 1:])
  relevant = jnp.sort(jnp.where(is_relevant, distances, jnp.inf), axis=1)
  others = jnp.sort(jnp.where(is_relevant, jnp.inf, distances), axis=1)
  search = functools.partial(jnp.searchsorted, side="right")
  ahead = jax.vmap(search)(others, relevant[:, :width])
  return ahead + jnp.arange(width, dtype=ahead.dtype)[None, :]

"""Detection of queries that are in the database and would find themselves."""

import warnings

import numpy as np

from flowkd_jax.evaluation._rows import Rows

# A data set may hold a few examples twice; half of the queries is no accident.
_LARGEST_SHARE = 0.5


def check_apart(rows: Rows) -> None:
  """Refuses queries that are the database, and warns if half of them are rows of it.

  Raises:
    ValueError: If database and queries are the same rows with the same labels.
  """
  same_size = rows.database.shape == rows.queries.shape
  if (
    same_size
    and np.array_equal(rows.database_classes, rows.query_classes)
    and np.array_equal(rows.database, rows.queries)
  ):
    raise ValueError(
      "queries: expected other examples than the database, got the same ones: every "
      "query would find itself first, which inflates all metrics; hold examples out, "
      "for example queries = features[:1000] and database = features[1000:], or "
      "leave queries and query_labels out, so that each row is compared with the others"
    )
  found = _rows_found(rows)
  if found >= _LARGEST_SHARE * len(rows.queries):
    warnings.warn(
      f"retrieval: {found} of {len(rows.queries)} queries are rows of the database "
      "and find themselves first, which inflates all metrics; leave them out of one "
      "of the two",
      stacklevel=3,
    )


def _rows_found(rows: Rows) -> int:
  """Number of queries that are rows of the database, 0 if it holds rows twice.

  Codes of few bits and collapsed models give different examples the same features;
  equal rows mean nothing then.
  """
  known = {
    hash(row.tobytes()): label
    for row, label in zip(rows.database, rows.database_classes, strict=True)
  }
  if len(known) < len(rows.database):
    return 0
  return sum(
    known.get(hash(row.tobytes())) == label
    for row, label in zip(rows.queries, rows.query_classes, strict=True)
  )

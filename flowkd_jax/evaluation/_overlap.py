"""Detection of queries that are also in the database and would find themselves."""

import warnings

import numpy as np

from flowkd_jax.evaluation._rows import Rows

# A data set may hold a few duplicates; half of the queries cannot be an accident.
_LARGEST_SHARE = 0.5


def check_apart(rows: Rows) -> None:
  """Refuse queries that equal the database; warn if half of them are in it.

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
  """Number of queries that are database rows; 0 if the database has duplicates.

  Short codes and collapsed models give different examples equal features. Equal rows
  then say nothing about the examples.
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

"""Labelled feature rows on the host, checked, scaled and normalised."""

from typing import Literal
from typing import NamedTuple
from typing import get_args

import jax
import numpy as np
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics.checks import check_choice
from flowkd_jax._numerics.checks import check_floating
from flowkd_jax._numerics.checks import check_integer
from flowkd_jax._numerics.checks import check_rows
from flowkd_jax._numerics.checks import check_shape

Metric = Literal["euclidean", "cosine"]
METRICS = get_args(Metric)


class Rows(NamedTuple):
  """Database and labelled queries on a common scale, with classes 0, 1, 2, ...

  Database rows without a label have the further class `num_classes`, which no query
  has. `query_classes` is -1 if the database lacks the class of the query. For
  leave-one-out, `own` holds the position of each query in the database.
  """

  database: Float[np.ndarray, "database dim"]
  database_classes: Int[np.ndarray, " database"]
  queries: Float[np.ndarray, "queries dim"]
  query_classes: Int[np.ndarray, " queries"]
  num_classes: int
  own: Int[np.ndarray, " queries"] | None = None


def labelled_rows(
  database, database_labels, queries, query_labels, metric: Metric
) -> Rows:
  """Check the four arrays and convert them to `Rows`.

  Features are float32, or float64 if either set has it and x64 is on. Both sets are
  multiplied by a power of two (for cosines, each row by its own), so that squares
  neither overflow nor underflow. This does not change the order of distances.
  """
  check_choice("metric", metric, METRICS)
  database, database_labels = _checked("database", database, database_labels)
  queries, query_labels = _checked("queries", queries, query_labels, "query_labels")
  if database.shape[1] != queries.shape[1]:
    raise ValueError(
      "expected features of one width, but database has "
      f"{database.shape[1]} columns and queries has {queries.shape[1]}; "
      "take both at the same tap of the same model"
    )
  queries, query_labels = _with_label("query_labels", queries, query_labels)
  _, known = _with_label("database_labels", database, database_labels)
  classes = np.unique(known)
  database_classes = np.where(
    database_labels < 0, classes.size, np.searchsorted(classes, database_labels)
  )
  nearest = np.minimum(np.searchsorted(classes, query_labels), classes.size - 1)
  found = classes[nearest] == query_labels
  if not found.any():
    raise ValueError(
      "query_labels: expected classes that database_labels contains, got none "
      f"of them (database from {classes[0]} to {classes[-1]}, queries from "
      f"{query_labels.min()} to {query_labels.max()}); number the classes of "
      "both sets alike"
    )
  if metric == "cosine":  # per row, as small rows could underflow with a common factor
    exponents = [_exponents(side) for side in (database, queries)]
  else:
    exponents = [max(_exponents(side).max() for side in (database, queries))] * 2
  dtype = jax.dtypes.canonicalize_dtype(np.result_type(database, queries))
  return Rows(
    np.ldexp(database, -exponents[0]).astype(dtype),
    database_classes,
    np.ldexp(queries, -exponents[1]).astype(dtype),
    np.where(found, nearest, -1),
    classes.size,
  )


def check_both_or_none(queries, query_labels) -> None:
  """Raise ValueError unless queries and labels are both given or both left out."""
  if (queries is None) != (query_labels is None):
    missing, given = ("queries", "query_labels")[:: 1 if queries is None else -1]
    raise ValueError(
      f"{missing}: expected an array or a path beside {given}, got None; leave both "
      "out for leave-one-out"
    )


def leave_one_out_rows(database, database_labels, metric: Metric) -> Rows:
  """Rows for leave-one-out: each labelled row is a query against all other rows.

  A query without another row of its class gets the class -1.

  Raises:
    ValueError: As in `labelled_rows`; or if no class has two rows.
  """
  rows = labelled_rows(database, database_labels, database, database_labels, metric)
  (own,) = np.nonzero(rows.database_classes < rows.num_classes)
  alone = np.bincount(rows.query_classes)[rows.query_classes] == 1
  if alone.all():
    raise ValueError(
      "database_labels: expected a class of at least two rows, got as many classes as "
      "labelled rows; nothing is left to find for a row that is left out"
    )
  return rows._replace(query_classes=np.where(alone, -1, rows.query_classes), own=own)


def _with_label(name, rows, labels):
  labelled = labels >= 0
  if not labelled.any():
    raise ValueError(
      f"{name}: expected at least one row with a label, got {len(labels)} negative "
      "labels, which mark rows without one"
    )
  return rows[labelled], labels[labelled]


def unit_rows(
  rows: Float[np.ndarray, "rows dim"],
) -> Float[np.ndarray, "rows dim"]:
  """Normalise rows to L2 norm 1; rows of zeros do not change."""
  rows = np.ldexp(rows, -_exponents(rows))
  squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
  norms = np.sqrt(squares)[:, None]
  return np.divide(
    rows,
    norms,
    out=np.zeros_like(rows),
    where=norms > 0,
    casting="same_kind",
  )


def _exponents(rows: Float[np.ndarray, "rows dim"]) -> Int[np.ndarray, "rows 1"]:
  """Exponents of the power of two above the largest magnitude of each row."""
  largest = np.maximum(rows.max(1, keepdims=True), -rows.min(1, keepdims=True))
  return np.frexp(largest)[1]


def coarse_centre(
  mean: Float[np.ndarray, " dim"],
  lowest: Float[np.ndarray, " dim"],
  highest: Float[np.ndarray, " dim"],
) -> Float[np.ndarray, " dim"]:
  """Mean row, with each entry rounded to a multiple of a power of two.

  The power of two is near the spread of the column. Centring by this row keeps the
  digits of distances like centring by the mean. In addition, rows on a grid, such as
  integer codes, stay on the grid, so that equal distances stay equal.

  Args:
    mean: Mean of the rows.
    lowest: Minimum of each column.
    highest: Maximum of each column.
  """
  # Halved first, as the difference of huge entries would overflow.
  step = np.ldexp(1.0, np.frexp(highest / 2 - lowest / 2)[1])
  return np.where(highest == lowest, lowest, np.rint(mean / step) * step)


def labels_in_int64(name: str, labels: Int[np.ndarray, " rows"]) -> np.ndarray:
  """Convert labels to int64.

  Raises:
    ValueError: If a label is too large.
  """
  if labels.dtype == np.uint64 and (labels > np.iinfo(np.int64).max).any():
    raise ValueError(
      f"{name}: expected labels below 2^63, got {labels.max()}; number the classes of "
      "all sets anew, for example with numpy.unique(labels, return_inverse=True)"
    )
  return labels.astype(np.int64)


def _checked(
  name: str, features, labels, labels_name: str = "database_labels"
) -> tuple[np.ndarray, np.ndarray]:
  """Check features and labels; convert to float32 or float64, and int64."""
  features, labels = np.asarray(features), np.asarray(labels)
  check_floating(name, features)
  check_rows(name, features)
  if features.ndim != 2:
    raise ValueError(
      f"{name}: expected features of shape [rows, dim], got shape "
      f"{features.shape}; flatten or pool them first, for example with "
      ".reshape(len(features), -1)"
    )
  check_integer(labels_name, labels)
  check_shape(labels_name, labels, features.shape[:1])
  broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if broken.size:
    raise ValueError(
      f"{name}: expected finite features, got NaN or infinity in {broken.size} "
      f"of {len(features)} rows, first in row {broken[0]}; look for a diverged "
      "model or a wrong normalisation of its inputs"
    )
  dtype = np.promote_types(np.float32, features.dtype)
  return features.astype(dtype), labels_in_int64(labels_name, labels)

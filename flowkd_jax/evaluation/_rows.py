"""Labelled feature rows on the host: checked, scaled, normalised."""

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
  """Database and labelled queries in one scale, their classes as 0, 1, 2, ...

  Database rows without a label are of a last class, `num_classes`, which no query has.
  `query_classes` is -1 where the database lacks the class of the query. `own` has the
  position of each query in the database, if the queries are rows of it that are not to
  find themselves.
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
  """The four arrays on the host, after every check that both metrics share.

  Features come in float32, or in float64 if either set has it and x64 is on. Both
  are multiplied by one power of two, for cosines each row by its own, so that squares
  neither overflow nor vanish; that changes no order.
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
  if metric == "cosine":  # of each row, as small rows vanish beside large ones
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
  """Raises ValueError unless queries come with labels, or both are left out."""
  if (queries is None) != (query_labels is None):
    missing, given = ("queries", "query_labels")[:: 1 if queries is None else -1]
    raise ValueError(
      f"{missing}: expected an array or a path beside {given}, got None; leave both "
      "out for leave-one-out"
    )


def leave_one_out_rows(database, database_labels, metric: Metric) -> Rows:
  """Every labelled row of the database as a query against all others.

  A query without another row of its class has a class that the database lacks.

  Raises:
    ValueError: As `labelled_rows`, and if no class has two rows.
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
  """Rows of L2 norm 1; rows of zeros stay, at cosine 0 to everything."""
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
  """Powers of two just above the largest magnitude of each row; 0 for zeros."""
  largest = np.maximum(rows.max(1, keepdims=True), -rows.min(1, keepdims=True))
  return np.frexp(largest)[1]


def coarse_centre(
  mean: Float[np.ndarray, " dim"],
  lowest: Float[np.ndarray, " dim"],
  highest: Float[np.ndarray, " dim"],
) -> Float[np.ndarray, " dim"]:
  """The mean row, each entry rounded to a power of two near the spread of its column.

  Distances keep their digits with it as with the mean itself. Rows on a grid, such as
  codes of whole numbers, stay on it, so that equal distances stay equal.

  Args:
    mean: Mean of the rows.
    lowest: Least entry of each column.
    highest: Largest entry of each column.
  """
  # Halved first, as the difference of huge entries would overflow.
  step = np.ldexp(1.0, np.frexp(highest / 2 - lowest / 2)[1])
  return np.where(highest == lowest, lowest, np.rint(mean / step) * step)


def labels_in_int64(name: str, labels: Int[np.ndarray, " rows"]) -> np.ndarray:
  """Labels as int64.

  Raises:
    ValueError: If one is too large for it.
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
  """Features as float32, or float64 if they are, and labels as int64."""
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

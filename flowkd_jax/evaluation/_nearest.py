"""Nearest rows of a database for each query."""

import numpy as np
from jaxtyping import ArrayLike
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics.checks import check_choice
from flowkd_jax._numerics.checks import check_floating
from flowkd_jax.evaluation._rows import METRICS
from flowkd_jax.evaluation._rows import Metric
from flowkd_jax.evaluation._rows import unit_rows

_DISTANCES_AT_ONCE = 2**23


def nearest_rows(
  database: Float[ArrayLike, "database dim"],
  queries: Float[ArrayLike, "queries dim"],
  *,
  count: int = 10,
  metric: Metric = "euclidean",
) -> Int[np.ndarray, "queries count"]:
  """Find the nearest database rows of each query, the nearest first.

  Use it to inspect neighbours, and `retrieval` to measure. Of rows at equal distance,
  the earlier one comes first. A row of zeros has cosine 0 to every row. The function
  runs on the host in float64.

  Args:
    database: Features to find.
    queries: Features to look up.
    count: Number of rows for each query, from 1 to the number of database rows.
    metric: "euclidean" or "cosine".

  Raises:
    ValueError: If the widths disagree, an array is not `[rows, dim]`, or `count` is
      out of its range.
    TypeError: If features are not floating.
  """
  check_choice("metric", metric, METRICS)
  rows, asked = np.asarray(database), np.asarray(queries)
  for name, array in (("database", rows), ("queries", asked)):
    check_floating(name, array)
    if array.ndim != 2 or not array.size:
      raise ValueError(
        f"{name}: expected non-empty features of shape [rows, dim], got {array.shape}; "
        "flatten or pool them first"
      )
  if rows.shape[1] != asked.shape[1]:
    raise ValueError(
      f"expected features of one width, but database has {rows.shape[1]} columns and "
      f"queries has {asked.shape[1]}; take both at the same tap of the same model"
    )
  if not 1 <= count <= len(rows):
    raise ValueError(f"count: expected 1 to {len(rows)}, got {count}")
  rows, asked = rows.astype(np.float64), asked.astype(np.float64)
  if metric == "cosine":
    rows, asked = unit_rows(rows), unit_rows(asked)
  squares = 0.0 if metric == "cosine" else np.square(rows).sum(axis=1)
  chunk = max(1, _DISTANCES_AT_ONCE // len(rows))
  found = [
    np.argsort(squares - 2 * block @ rows.T, axis=1, kind="stable")[:, :count]
    for block in np.split(asked, range(chunk, len(asked), chunk))
  ]
  return np.concatenate(found)

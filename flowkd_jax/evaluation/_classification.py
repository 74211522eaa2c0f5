"""Share of examples that get the right class."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import ArrayLike
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._checks import check_floating
from flowkd_jax._checks import check_integer
from flowkd_jax._checks import check_rows
from flowkd_jax._checks import check_shape
from flowkd_jax.evaluation._rows import Metric
from flowkd_jax.evaluation._rows import labelled_rows
from flowkd_jax.evaluation._rows import unit_rows

_QUERIES_AT_ONCE = 4096


def accuracy(
  logits: Float[Array, "batch classes"],
  labels: Int[Array, " batch"],
  *,
  top_k: int = 1,
) -> Float[Array, ""]:
  """Share of rows whose label is among the `top_k` largest logits, in [0, 1].

  Of equal logits the one with the lower index counts as larger, as in `argmax`.
  A row that holds a NaN and a label outside `[0, classes)` count as wrong.

  Raises:
    ValueError: unless shapes agree and `top_k` is between 1 and the number of
      classes.
    TypeError: unless `logits` is floating and `labels` is integer.
  """
  check_floating("logits", logits)
  check_rows("logits", logits)
  if jnp.ndim(logits) != 2:
    raise ValueError(
      f"logits: expected shape [batch, classes], got {jnp.shape(logits)}; "
      "average or flatten the other axes first"
    )
  batch, classes = jnp.shape(logits)
  check_integer("labels", labels)
  check_shape("labels", labels, (batch,))
  if not 1 <= top_k <= classes:
    raise ValueError(
      f"top_k: expected 1 to {classes}, the number of classes, got {top_k}"
    )
  logits = jnp.asarray(logits)
  labels = jnp.asarray(labels).astype(jnp.int32)[:, None]
  index = jnp.arange(classes, dtype=jnp.int32)[None, :]
  is_label = index == labels
  own = jnp.where(is_label, logits, -jnp.inf).max(axis=1, keepdims=True)
  ahead = (logits > own) | ((logits == own) & (index < labels))
  right = (ahead.sum(axis=1) < top_k) & is_label.any(axis=1)
  right &= ~jnp.isnan(logits).any(axis=1)
  return right.mean()


def nearest_centroid_accuracy(
  database: Float[ArrayLike, "database dim"],
  database_labels: Int[ArrayLike, " database"],
  queries: Float[ArrayLike, "queries dim"],
  query_labels: Int[ArrayLike, " queries"],
  *,
  metric: Metric = "euclidean",
) -> float:
  """Share of queries whose nearest class centroid has their label, in [0, 1].

  Euclidean: a centroid is the mean of the database rows of its class. Cosine: it is
  the mean of those rows after each is normalised to L2 norm 1, not the mean of the
  plain rows, and the largest cosine to a centroid wins. A row or centroid of zeros
  has cosine 0 to everything.

  Of centroids equally near the lower label wins. A query whose class the database
  lacks counts as wrong. Runs on the host, not under `jit`; sums are in float64.

  Raises:
    ValueError: if shapes disagree, an array is empty, a feature is not finite,
      or the two sets share no class.
    TypeError: unless features are floating and labels are integer.
  """
  rows = labelled_rows(database, database_labels, queries, query_labels, metric)
  cosine = metric == "cosine"
  centroids = []
  for label in range(rows.database_classes.max() + 1):
    members = rows.database[rows.database_classes == label].astype(np.float64)
    centroids.append((unit_rows(members) if cosine else members).mean(axis=0))
  centroids = np.stack(centroids)
  if cosine:
    centroids = unit_rows(centroids)
  right = 0
  for start in range(0, len(rows.queries), _QUERIES_AT_ONCE):
    block = slice(start, start + _QUERIES_AT_ONCE)
    nearest = _nearest(rows.queries[block], centroids, cosine)
    right += np.count_nonzero(nearest == rows.query_classes[block])
  return right / len(rows.queries)


def _nearest(
  queries: Float[np.ndarray, "queries dim"],
  centroids: Float[np.ndarray, "classes dim"],
  cosine: bool,
) -> Int[np.ndarray, " queries"]:
  """Index of the nearest centroid.

  The norm of the query is left out: it shifts or scales all distances alike.
  """
  squares = 0.0 if cosine else np.square(centroids).sum(axis=1)
  return (squares - 2 * queries.astype(np.float64) @ centroids.T).argmin(axis=1)

"""Classification accuracy."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import ArrayLike
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics.checks import check_floating
from flowkd_jax._numerics.checks import check_rows
from flowkd_jax._numerics.label_rule import read_labels
from flowkd_jax.evaluation._rows import Metric
from flowkd_jax.evaluation._rows import Rows
from flowkd_jax.evaluation._rows import labelled_rows
from flowkd_jax.evaluation._rows import unit_rows

_ROWS_AT_ONCE = 4096
_DISTANCES_AT_ONCE = 2**22


def accuracy(
  logits: Float[Array, "batch classes"],
  labels: Int[Array, " batch"] | Int[np.ndarray, " batch"],
  *,
  top_k: int = 1,
) -> Float[Array, ""]:
  """Share of rows whose label is among the `top_k` largest logits, in [0, 1].

  If logits are equal, the one with the lower index counts as larger, as in `argmax`.
  Rows without a label are left out; without any labelled row the result is NaN. A label
  at or above the number of classes, and NaN or plus infinity in the logits, give NaN;
  see `flowkd_jax.losses`.

  Raises:
    ValueError: Unless shapes agree and `top_k` is between 1 and the number of
      classes, or if a label in a NumPy array is at or above that number.
    TypeError: Unless `logits` is floating and `labels` is integer.
  """
  check_floating("logits", logits)
  check_rows("logits", logits)
  if jnp.ndim(logits) != 2:
    raise ValueError(
      f"logits: expected shape [batch, classes], got {jnp.shape(logits)}; "
      "average or flatten the other axes first"
    )
  batch, classes = jnp.shape(logits)
  if not 1 <= top_k <= classes:
    raise ValueError(
      f"top_k: expected 1 to {classes}, the number of classes, got {top_k}"
    )
  read = read_labels(labels, classes, shape=(batch,))
  logits = jnp.asarray(logits)
  label = read.classes[:, None]
  index = jnp.arange(classes, dtype=jnp.int32)[None, :]
  own = jnp.where(index == label, logits, -jnp.inf).max(axis=1, keepdims=True)
  ahead = (logits > own) | ((logits == own) & (index < label))
  right = (ahead.sum(axis=1) < top_k).astype(jnp.float32)
  # The maximum is NaN, which is not below infinity, if any logit is.
  right = jnp.where(logits.max(axis=1) < jnp.inf, right, jnp.nan)
  right = jnp.where(read.labelled, read.invalidate(right), 0)
  return right.sum() / read.labelled.sum(dtype=right.dtype)


def nearest_centroid_accuracy(
  database: Float[ArrayLike, "database dim"],
  database_labels: Int[ArrayLike, " database"],
  queries: Float[ArrayLike, "queries dim"],
  query_labels: Int[ArrayLike, " queries"],
  *,
  metric: Metric = "euclidean",
) -> float:
  """Share of queries whose nearest class centroid has their label, in [0, 1].

  With "euclidean", a centroid is the mean of the database rows of its class. With
  "cosine", each row is first normalised to L2 norm 1, and the centroid with the largest
  cosine wins. A row or centroid of zeros has cosine 0 to everything.

  If centroids are equally near, the lower label wins. A query whose class is not in the
  database counts as wrong. Rows without a label are left out of both sets. The function
  runs on the host, not under `jit`, with sums in float64. With N database rows, Q
  queries, C classes and width D it takes `O(N D + Q C D)` time and, besides the
  arguments, `O(N + C D)` memory.

  Raises:
    ValueError: If shapes disagree, an array is empty, a feature is not finite,
      or the two sets share no class.
    TypeError: Unless features are floating and labels are integer.
  """
  rows = labelled_rows(database, database_labels, queries, query_labels, metric)
  cosine = metric == "cosine"
  centroids = _centroids(rows, cosine)
  right = 0
  at_once = max(1, _DISTANCES_AT_ONCE // len(centroids))
  for start in range(0, len(rows.queries), at_once):
    block = slice(start, start + at_once)
    nearest = _nearest(rows.queries[block], centroids, cosine)
    right += np.count_nonzero(nearest == rows.query_classes[block])
  return right / len(rows.queries)


def _centroids(rows: Rows, cosine: bool) -> Float[np.ndarray, "classes dim"]:
  """Mean row of each class, or with `cosine` the mean direction."""
  order = np.argsort(rows.database_classes, kind="stable")
  classes = rows.database_classes[order]
  # Rows without a label form a further, last class.
  sums = np.zeros((rows.num_classes + 1, rows.database.shape[1]))
  for start in range(0, len(order), _ROWS_AT_ONCE):
    block = slice(start, start + _ROWS_AT_ONCE)
    members = rows.database[order[block]].astype(np.float64)
    present, firsts = np.unique(classes[block], return_index=True)
    sums[present] += np.add.reduceat(
      unit_rows(members) if cosine else members, firsts, axis=0
    )
  if cosine:
    return unit_rows(sums[:-1])
  counts = np.bincount(classes, minlength=len(sums))
  return sums[:-1] / counts[:-1, None]


def _nearest(
  queries: Float[np.ndarray, "queries dim"],
  centroids: Float[np.ndarray, "classes dim"],
  cosine: bool,
) -> Int[np.ndarray, " queries"]:
  """Index of the nearest centroid.

  The norm of the query is left out, as it shifts or scales all distances equally.
  """
  squares = 0.0 if cosine else np.square(centroids).sum(axis=1)
  return (squares - 2 * queries.astype(np.float64) @ centroids.T).argmin(axis=1)

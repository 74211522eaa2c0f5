"""Nearest rows of a database that is read in blocks, for many queries at once.

For each query, only the requested number of rows is kept. On a CPU, NumPy multiplies,
and only the rows of a block that are nearer than the last kept row are merged. On other
devices, XLA finds the nearest rows of each block and merges them with the kept rows.
"""

import functools
from collections.abc import Callable
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import UInt64

# Database rows and queries at a time. On a CPU, a block of distances should fit into
# the caches.
_ON_CPU, _ELSEWHERE = (2**14, 2**8), (2**16, 2**11)
_KEPT_BYTES = 2**27  # memory for the kept rows of a group of queries
_LAST = np.uint64(2**64 - 1)

# Block of scaled rows. The last column is the number that is added to -2 <query, row>
# to give a distance.
Block = Float[np.ndarray, "rows dim+1"]


def group_size(count: int) -> int:
  """Number of queries whose nearest rows are kept at a time."""
  return max(_ON_CPU[1], _KEPT_BYTES // (8 * count))


def nearest_in_blocks(
  queries: Float[np.ndarray, "queries dim"],
  own: Int[np.ndarray, " queries"],
  blocks: Callable[[int], Iterator[Block]],
  count: int,
  *,
  backend: str,
) -> Int[np.ndarray, "queries count"]:
  """Positions of the nearest rows, the nearest first; of equal rows, the earlier first.

  Args:
    queries: Scaled queries in float32.
    own: Position of each query in the database, which is left out; -1 if the query is
      not in the database.
    blocks: Function from a block size to an iterator over all blocks, in order.
    count: Number of rows to find, at most the number of database rows without the
      query.
    backend: JAX backend that finds them.
  """
  size, at_once = _ON_CPU if backend == "cpu" else _ELSEWHERE
  chunks = [slice(start, start + at_once) for start in range(0, len(queries), at_once)]
  size = max(size, count)
  if backend != "cpu":
    return _nearest_on_device(queries, own, blocks(size), chunks, count)
  kept = [np.empty((len(queries[chunk]), 0), np.uint64) for chunk in chunks]
  factors = np.concatenate([-2 * queries, np.ones_like(queries[:, :1])], 1)
  # Reused for all blocks, because allocating new pages costs as much as the products.
  buffer = np.empty(at_once * size, np.float32)
  start = 0
  for rows in blocks(size):
    for i, chunk in enumerate(chunks):
      shape = len(factors[chunk]), len(rows)
      distances = buffer[: shape[0] * shape[1]].reshape(shape)
      np.matmul(factors[chunk], rows.T, out=distances)
      place = own[chunk] - start
      (inside,) = np.nonzero((place >= 0) & (place < len(rows)))
      distances[inside, place[inside]] = np.inf
      kept[i] = _merged(kept[i], distances, start, count)
    start += len(rows)
  found = [np.sort(keys, axis=1) & np.uint64(2**32 - 1) for keys in kept]
  return np.concatenate(found).astype(np.int64)


def _merged(
  kept: UInt64[np.ndarray, "queries kept"],
  distances: Float[np.ndarray, "queries rows"],
  start: int,
  count: int,
) -> UInt64[np.ndarray, "queries count"]:
  """Merge kept rows and rows of a block to the `count` nearest, the farthest last.

  A row is a 64-bit key with its distance in the upper half and its position in the
  lower half, so that keys are ordered by distance and then by position.
  """
  if kept.shape[1] == count:  # strict, as later rows come after rows of equal distance
    nearer = distances < _distances_of(kept[:, -1])[:, None]
  elif distances.shape[1] > count:
    bound = np.partition(distances, count - 1, axis=1)[:, count - 1]
    nearer = (distances <= bound[:, None]) & (distances < np.inf)
  else:
    nearer = distances < np.inf
  places = np.flatnonzero(nearer)
  if not places.size:
    return kept
  rows, columns = np.divmod(places, distances.shape[1])
  keys = _keys(distances.ravel()[places], start + columns)
  counts = np.bincount(rows, minlength=len(distances))
  offsets = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
  added = np.full((len(distances), counts.max()), _LAST)
  added[rows, offsets] = keys
  merged = np.concatenate([kept, added], axis=1)
  if merged.shape[1] >= count:
    merged.partition(count - 1, axis=1)
  return merged[:, :count]


def _keys(distances, positions):
  bits = (distances + np.float32(0)).view(np.uint32)  # no negative zero
  negative = bits >= 2**31
  ordered = np.where(negative, ~bits, bits | np.uint32(2**31)).astype(np.uint64)
  return (ordered << np.uint64(32)) | positions.astype(np.uint64)


def _distances_of(keys):
  ordered = (keys >> np.uint64(32)).astype(np.uint32)
  negative = ordered < 2**31
  bits = np.where(negative, ~ordered, ordered ^ np.uint32(2**31))
  return np.where(keys == _LAST, np.float32(np.inf), bits.view(np.float32))


def _nearest_on_device(queries, own, blocks, chunks, count):
  placed = jnp.asarray(queries), jnp.asarray(own.astype(np.int32))
  none = len(queries), 0
  kept = jnp.zeros(none, jnp.float32), jnp.zeros(none, jnp.int32)
  start = 0
  for rows in blocks:
    parts = [
      _merged_on_device(
        *(each[chunk] for each in (*kept, *placed)),
        rows,
        np.int32(start),
        count=count,
      )
      for chunk in chunks
    ]
    kept = tuple(jnp.concatenate(each) for each in zip(*parts, strict=True))
    start += len(rows)
  return np.asarray(kept[1]).astype(np.int64)


@functools.partial(jax.jit, static_argnames="count")
def _merged_on_device(
  kept: Float[Array, "queries kept"],
  positions: Int[Array, "queries kept"],
  queries: Float[Array, "queries dim"],
  own: Int[Array, " queries"],
  rows: Float[Array, "rows dim+1"],
  start: Int[Array, ""],
  *,
  count: int,
) -> tuple[Float[Array, "queries count"], Int[Array, "queries count"]]:
  """Negative distances and positions of the nearest rows, the nearest first."""
  products = jnp.matmul(queries, rows[:, :-1].T, precision=lax.Precision.HIGHEST)
  everyone = start + jnp.arange(rows.shape[0], dtype=jnp.int32)
  likeness = 2 * products - rows[None, :, -1]
  likeness = jnp.where(everyone[None, :] == own[:, None], -jnp.inf, likeness)
  # `top_k` takes the first of equal entries, so kept rows come before later rows.
  best, columns = lax.top_k(likeness, min(count, rows.shape[0]))
  both = jnp.concatenate([kept, best], 1)
  places = jnp.concatenate([positions, everyone[columns]], 1)
  best, columns = lax.top_k(both, min(count, both.shape[1]))
  return best, jnp.take_along_axis(places, columns, axis=1)

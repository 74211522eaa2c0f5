"""Random orders that do not depend on the versions of NumPy or JAX."""

import numpy as np
from jaxtyping import Int32
from jaxtyping import UInt64


def random_ranks(seed: int, stream: int, count: int) -> UInt64[np.ndarray, " count"]:
  """Independent random 64-bit numbers for each seed and stream.

  They are the raw output of the Philox bit generator, which NumPy guarantees to keep.
  Shuffles of `np.random.Generator` may change between releases; a resumed run would
  then continue in another order.
  """
  key = np.array([seed, stream], np.uint64)
  return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, epoch: int, count: int) -> Int32[np.ndarray, " count"]:
  """Random order of `count` examples, determined by seed and epoch."""
  ranks = random_ranks(seed, epoch, count)
  # A stable sort takes twice the time, and differs only if two numbers are equal.
  order = np.argsort(ranks)
  ordered = ranks[order]
  if (ordered[1:] == ordered[:-1]).any():
    order = np.argsort(ranks, kind="stable")
  return order.astype(np.int32)

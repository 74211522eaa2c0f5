"""Seeded orders that never change with the versions of NumPy or JAX."""

import numpy as np
from jaxtyping import Int32
from jaxtyping import UInt64


def random_ranks(seed: int, stream: int, count: int) -> UInt64[np.ndarray, " count"]:
  """Independent random 64-bit numbers of (seed, stream).

  Raw output of the Philox bit generator, which NumPy promises to keep; the
  shuffles of `np.random.Generator` may change between releases, and a resumed
  run would then continue in another order.
  """
  key = np.array([seed, stream], np.uint64)
  return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, epoch: int, count: int) -> Int32[np.ndarray, " count"]:
  """The order of the `count` examples in an epoch: one per (seed, epoch)."""
  ranks = random_ranks(seed, epoch, count)
  # The stable sort takes twice the time; it differs only where two numbers are equal.
  order = np.argsort(ranks)
  ordered = ranks[order]
  if (ordered[1:] == ordered[:-1]).any():
    order = np.argsort(ranks, kind="stable")
  return order.astype(np.int32)

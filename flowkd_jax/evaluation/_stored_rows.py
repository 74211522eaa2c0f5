"""Feature rows in memory or on disk, read and scaled block by block."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics.checks import check_floating
from flowkd_jax._numerics.checks import check_integer
from flowkd_jax._numerics.checks import check_rows
from flowkd_jax._numerics.checks import check_shape
from flowkd_jax.evaluation._rows import Metric
from flowkd_jax.evaluation._rows import coarse_centre
from flowkd_jax.evaluation._rows import labels_in_int64
from flowkd_jax.evaluation._rows import unit_rows

_BYTES_AT_ONCE = 2**24


class StoredRows(NamedTuple):
  """Features in memory or in a file, with their labels in memory.

  Attributes:
    rows: Features. Those of a file are mapped, not read.
    labels: Labels.
  """

  rows: Float[np.ndarray, "rows dim"]
  labels: Int[np.ndarray, " rows"]


class Scaling(NamedTuple):
  """Scaling of rows, after which inner products give the metric.

  Attributes:
    metric: "euclidean" or "cosine".
    exponent: Exponent of the power of two that multiplies rows, so that squares do not
      overflow.
    centre: Row near the mean of the scaled rows, which is subtracted, because rows with
      a large common mean would lose digits.
  """

  metric: Metric
  exponent: int
  centre: Float[np.ndarray, " dim"]

  def scaled(
    self, rows: Float[np.ndarray, "rows dim"]
  ) -> Float[np.ndarray, "rows dim"]:
    """Scale rows to float32; they are centred, or have norm 1."""
    dtype = np.promote_types(np.float32, rows.dtype)
    rows = np.asarray(rows, dtype)
    if self.metric == "cosine":
      return unit_rows(rows).astype(np.float32)
    rows = np.ldexp(rows, self.exponent)
    return (rows - self.centre.astype(dtype)).astype(np.float32)


def stored_rows(name: str, features, labels, labels_name: str) -> StoredRows:
  """Check features and labels, or the paths of their `.npy` files, without reading.

  Args:
    name: Name of the features in messages.
    features: Array or path.
    labels: Array or path.
    labels_name: Name of the labels in messages.

  Raises:
    ValueError: If shapes disagree, an array is empty, or a file is not a `.npy` file.
    TypeError: If features are not floating point or labels are not integers.
  """
  rows, numbers = _opened(name, features), np.asarray(_opened(labels_name, labels))
  # In native byte order, the only one that JAX knows; files may have the other one.
  check_floating(name, np.empty(0, rows.dtype.newbyteorder("=")))
  check_rows(name, rows)
  if rows.ndim != 2:
    raise ValueError(
      f"{name}: expected features of shape [rows, dim], got shape {rows.shape}; "
      "flatten or pool them first, for example with .reshape(len(features), -1)"
    )
  check_integer(labels_name, numbers)
  check_shape(labels_name, numbers, rows.shape[:1])
  return StoredRows(rows, labels_in_int64(labels_name, numbers))


def _opened(name, array):
  if not isinstance(array, str | os.PathLike):
    return np.asarray(array)
  try:
    opened = np.load(array, mmap_mode="r", allow_pickle=False)
  except FileNotFoundError:
    raise
  except (EOFError, IsADirectoryError, ValueError) as error:
    raise ValueError(
      f"{name}: expected an array or the path of a .npy file, got {os.fspath(array)}, "
      f"which cannot be read as one ({error}); write it with numpy.save"
    ) from None
  if not isinstance(opened, np.ndarray):
    raise ValueError(
      f"{name}: expected an array or the path of a .npy file, got "
      f"{os.fspath(array)}, an archive of several; pass one array of it"
    )
  if opened.dtype.kind == "V":  # as numpy.save leaves arrays of bfloat16
    raise TypeError(
      f"{name}: expected a file of numbers, got {os.fspath(array)} of dtype "
      f"{opened.dtype}, which numpy.save makes of bfloat16; save .astype(numpy.float32)"
    )
  return opened


def blocks(rows: Float[np.ndarray, "rows dim"]) -> Iterator[slice]:
  """Yield slices of rows that are read at a time."""
  size = max(1, _BYTES_AT_ONCE // (8 * rows.shape[1]))
  for start in range(0, len(rows), size):
    yield slice(start, min(start + size, len(rows)))


def scaling_of(
  metric: Metric, database: StoredRows, queries: StoredRows | None
) -> Scaling:
  """Find the scaling of both sets, in one pass over each.

  Raises:
    ValueError: If a feature is not finite.
  """
  sides = {"database": database} | ({} if queries is None else {"queries": queries})
  largest, total = 0.0, np.zeros(database.rows.shape[1])
  lowest, highest = np.full_like(total, np.inf), np.full_like(total, -np.inf)
  for name, side in sides.items():
    for block in blocks(side.rows):
      values = np.asarray(side.rows[block], np.float64)
      _check_finite(name, values, block.start, len(side.rows))
      low, high = values.min(0), values.max(0)
      largest = max(largest, float(high.max()), -float(low.min()))
      if name == "database":
        np.minimum(lowest, low, out=lowest)
        np.maximum(highest, high, out=highest)
        # Divided before the sum, as a sum of large features could overflow.
        total += (values / len(side.rows)).sum(0)
  exponent = -int(np.frexp(largest)[1])
  centre = coarse_centre(total, lowest, highest)
  return Scaling(metric, exponent, np.ldexp(centre, exponent))


def _check_finite(name, values, start, number):
  broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
  if broken.size:
    raise ValueError(
      f"{name}: expected finite features, got NaN or infinity in row "
      f"{start + broken[0]} of {number}; look for a diverged model or a wrong "
      "normalisation of its inputs"
    )

"""Rows, sums and means of the global batch, over the rows of all devices.

A pairwise loss is a function of the whole batch. Under data parallelism each device
holds some rows and needs the rows of all devices as columns. These functions take an
`axis_name`, the name of the mapped axis (of `pmap`, `shard_map` or `vmap`) over which
the batch is split. It is None if the array is the whole batch.

A loss that is built from these functions is the loss of the global batch and has the
same value on every device. Its gradient is exact if the training step averages
gradients over the axis (`lax.pmean`), as data-parallel steps do.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped


def gather_rows(
  array: Shaped[Array, "batch ..."], axis_name: str | None
) -> Shaped[Array, "global_batch ..."]:
  """Rows of all devices, in device order. Each device gets the gradient of its rows."""
  if axis_name is None:
    return array
  _check_axis(axis_name)
  return lax.all_gather(array, axis_name, tiled=True)


def row_positions(batch: int, axis_name: str | None) -> Int[Array, " batch"]:
  """Positions of this device's rows within the gathered batch."""
  positions = jnp.arange(batch, dtype=jnp.int32)
  if axis_name is None:
    return positions
  return positions + _check_axis(axis_name) * batch


def global_sum(
  value: Float[Array, "..."], axis_name: str | None
) -> Float[Array, "..."]:
  """Sum over devices of per-device sums."""
  if axis_name is None:
    return value
  _check_axis(axis_name)  # the error of `psum` would not name the argument
  return lax.psum(value, axis_name)


def global_mean(
  rows: Float[Array, " batch"],
  mask: Shaped[Array, " batch"] | None,
  axis_name: str | None,
  *features: Float[Array, "batch ..."],
) -> Float[Array, ""]:
  """Mean over the real rows of all devices, or 0 if no row is real.

  Masked rows have no effect on value or gradient and may hold anything. If a real row
  of the `features` holds NaN or infinity, the mean is NaN.

  Args:
    rows: One value per row of this device.
    mask: True for real rows, or None if all rows are real.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    *features: Features from which the values were computed, to check for NaN.
  """
  if features:
    rows = jnp.where(finite_rows(*features), rows, jnp.nan)
  valid = real_rows(rows, mask)
  total = global_sum(jnp.where(valid, rows, 0).sum(), axis_name)
  count = global_sum(valid.sum(dtype=rows.dtype), axis_name)
  return total / jnp.maximum(count, 1)


def mean_weights(
  mask: Shaped[Array, " batch"] | None,
  axis_name: str | None,
  *features: Float[Array, "batch ..."],
) -> Float[Array, " batch"]:
  """Weights of this device's rows in a mean over the real rows of all devices.

  The weight of a real row that holds NaN or infinity is NaN. A loss is then NaN too,
  even if no other row is compared with this row.

  Args:
    mask: True for real rows, or None if all rows are real.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    *features: Features of student and teacher, to check for NaN.
  """
  real = real_rows(features[0], mask)
  valid = real.astype(features[0].dtype)
  weights = valid / jnp.maximum(global_sum(valid.sum(), axis_name), 1)
  return jnp.where(finite_rows(*features) | ~real, weights, jnp.nan)


def real_rows(
  features: Float[Array, "batch ..."], mask: Shaped[Array, " batch"] | None
) -> Bool[Array, " batch"]:
  """Mask of real rows as booleans. Without a mask all rows are real."""
  if mask is None:
    return jnp.ones(features.shape[:1], bool)
  return jnp.asarray(mask).astype(bool)


def finite_rows(*features: Float[Array, "batch ..."]) -> Bool[Array, " batch"]:
  """Mask of rows that hold neither NaN nor infinity in any of the arrays."""
  # Not computed from the largest entry: XLA for CPUs loses NaN in some maxima.
  flags = [jnp.isfinite(rows).all(tuple(range(1, rows.ndim))) for rows in features]
  return functools.reduce(jnp.logical_and, flags)


def _check_axis(axis_name: str) -> Int[Array, ""]:
  """Index of this device on the axis.

  Raises:
    ValueError: If no axis of this name is mapped here.
  """
  try:
    return lax.axis_index(axis_name)
  except NameError:
    raise ValueError(
      f"axis_name: expected the name of a mapped axis, got {axis_name!r}, which is "
      "not one here; call this inside pmap, shard_map or vmap with that axis_name, or "
      "pass None when the array is the whole batch"
    ) from None

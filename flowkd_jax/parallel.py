"""The global batch: the rows on this device against the rows of all devices.

`map_step` maps a function over devices; the other functions are called inside it.

A pairwise loss is a function of the whole batch, so under data parallelism each
device holds some rows and needs the columns of all. These functions take an
`axis_name`: the mapped axis (of `pmap`, `shard_map` or `vmap`) over which the
batch is split, or None when the array is the whole batch already.

A loss built from these is the loss of the global batch, the same on every
device. Its gradient is exact when the training step averages gradients over the
axis (`lax.pmean`), as every data-parallel step does.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

AXIS = "batch"  # name of the axis that `map_step` maps


def map_step(
  function: Callable[..., Any],
  in_axes: tuple[int | None, ...],
  *,
  out_axes: int | None = 0,
  donate: tuple[int, ...] = (),
  devices: Sequence[Any] | None = None,
) -> Any:
  """Maps a function over devices; collectives inside it use the axis `AXIS`.

  The function is written for one device. It is compiled on the first call.

  Args:
    function: Called on every device with its share of the arguments.
    in_axes: Axis of each argument that is split over the devices, of the length of
      `devices`. None gives every device the whole argument.
    out_axes: Axis along which results of the devices are stacked. None returns the
      result of one device, so the results must be equal on all.
    donate: Positions of the arguments whose memory the results may reuse; their
      arrays are deleted.
    devices: Devices of this process alone; by default all, of all processes.
  """
  return jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=in_axes,
    out_axes=out_axes,
    donate_argnums=donate,
    devices=devices,
  )


def gather_rows(
  array: Shaped[Array, "batch ..."], axis_name: str | None
) -> Shaped[Array, "global_batch ..."]:
  """Rows of all devices, in device order; gradients flow back to their owners."""
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
  _check_axis(axis_name)
  return lax.psum(value, axis_name)


def global_mean(
  rows: Float[Array, " batch"],
  mask: Shaped[Array, " batch"] | None,
  axis_name: str | None,
  *features: Float[Array, "batch ..."],
) -> Float[Array, ""]:
  """Mean over the valid rows of all devices; 0 when no row is valid.

  Masked rows contribute neither value nor gradient, whatever they hold. If a valid row
  of the `features` holds a NaN or an infinity, the mean is NaN.
  """
  if features:
    rows = jnp.where(finite_rows(*features), rows, jnp.nan)
  valid = jnp.ones(rows.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
  total = global_sum(jnp.where(valid, rows, 0).sum(), axis_name)
  count = global_sum(valid.sum(dtype=rows.dtype), axis_name)
  return total / jnp.maximum(count, 1)


def mean_weights(
  mask: Shaped[Array, " batch"] | None,
  axis_name: str | None,
  *features: Float[Array, "batch ..."],
) -> Float[Array, " batch"]:
  """Weights of this device's rows in a mean over the valid rows of all devices.

  NaN where a valid row of the `features` holds a NaN or an infinity, so that no loss is
  finite then, even if nothing is compared with that row.
  """
  batch, dtype = features[0].shape[0], features[0].dtype
  real = jnp.ones(batch, bool) if mask is None else jnp.asarray(mask).astype(bool)
  valid = real.astype(dtype)
  weights = valid / jnp.maximum(global_sum(valid.sum(), axis_name), 1)
  return jnp.where(finite_rows(*features) | ~real, weights, jnp.nan)


def finite_rows(*features: Float[Array, "batch ..."]) -> Bool[Array, " batch"]:
  """Rows that hold neither NaN nor infinity in any of the arrays."""
  # Not from the largest entry: XLA for CPUs loses NaN in some maxima.
  flags = [jnp.isfinite(rows).all(tuple(range(1, rows.ndim))) for rows in features]
  return functools.reduce(jnp.logical_and, flags)


def _check_axis(axis_name: str) -> Int[Array, ""]:
  """Index of this device on the axis; ValueError if there is no such axis here."""
  try:
    return lax.axis_index(axis_name)
  except NameError:
    raise ValueError(
      f"axis_name: expected the name of a mapped axis, got {axis_name!r}, which is "
      "not one here; call this inside pmap, shard_map or vmap with that axis_name, or "
      "pass None when the array is the whole batch"
    ) from None

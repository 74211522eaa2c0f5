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
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

__all__ = [
  "AXIS",
  "check_batch_size",
  "finite_rows",
  "gather_rows",
  "global_mean",
  "global_sum",
  "map_step",
  "mean_weights",
  "place",
  "real_rows",
  "row_positions",
  "split_rows",
]

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


def place(tree: Any, devices: Sequence[Any] | None = None) -> Any:
  """Puts arrays that are only read on every device; may share the caller's memory.

  Args:
    tree: Arrays, random keys or numbers, on the host or on any devices.
    devices: Devices of this process; by default all.
  """
  mesh = Mesh(np.array(devices or jax.local_devices()), (AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_rows(
  batch: Mapping[str, np.ndarray], num_devices: int
) -> dict[str, np.ndarray]:
  """Reshapes `[rows, ...]` to `[devices, rows / devices, ...]`.

  Raises:
    ValueError: If the rows do not divide evenly.
  """
  rows = next(iter(batch.values())).shape[0]
  check_batch_size(rows, num_devices)
  share = rows // num_devices
  return {
    name: array.reshape(num_devices, share, *array.shape[1:])
    for name, array in batch.items()
  }


def check_batch_size(
  batch_size: int, num_devices: int, *, name: str = "batch_size", of: str = "rows"
) -> None:
  """Raises ValueError, naming the nearest sizes, if devices can't share a batch.

  Args:
    batch_size: Rows of a step.
    num_devices: Devices that share them.
    name: What the number is called in the message.
    of: What the rows are called in the message.
  """
  if batch_size > 0 and batch_size % num_devices == 0:
    return
  below = batch_size // num_devices * num_devices
  nearest = [size for size in (below, below + num_devices) if size > 0]
  raise ValueError(
    f"{name}: {num_devices} devices cannot share {batch_size} {of} evenly; "
    f"nearest sizes that they can: {' or '.join(str(size) for size in nearest)}"
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
  valid = real_rows(rows, mask)
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
  real = real_rows(features[0], mask)
  valid = real.astype(features[0].dtype)
  weights = valid / jnp.maximum(global_sum(valid.sum(), axis_name), 1)
  return jnp.where(finite_rows(*features) | ~real, weights, jnp.nan)


def real_rows(
  features: Float[Array, "batch ..."], mask: Shaped[Array, " batch"] | None
) -> Bool[Array, " batch"]:
  """Rows that the mask says are real; all without one."""
  if mask is None:
    return jnp.ones(features.shape[:1], bool)
  return jnp.asarray(mask).astype(bool)


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

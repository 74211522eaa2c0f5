"""Data sets on the devices, with one copy for all programs that read them.

Training, evaluation and teacher caches read the same images. `share` puts an array on
the devices once, for as long as it is in use. A data set that takes more than half of
the memory of a device is split by rows. Each device then holds a part, and inside a
step `take_rows` fetches rows from the devices that hold them.
"""

import dataclasses
import os
import weakref
import zlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from jaxtyping import Array
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax.parallel import _mapping

_SMALL = 2**16  # arrays below this number of bytes are copied again without a search
_READ = 2**28  # number of bytes that are read to see whether an array has changed


@dataclasses.dataclass(frozen=True)
class RowShards:
  """Part of an array that is split by rows over the devices of a mapped step.

  Attributes:
    rows: Rows of this device. Every device has the same number of rows, and the last
      rows of the last devices may be padding.
    axis_name: Name of the mapped axis.
  """

  rows: Shaped[Array, "share ..."]
  axis_name: str


@dataclasses.dataclass(frozen=True)
class Resident:
  """Arrays on the devices, as an argument of a mapped step.

  Keep this object as long as the arrays are in use. Other calls of `share` find the
  arrays only while such an object exists.

  Attributes:
    arrays: The arrays by name.
    in_axes: Entry for this argument in `in_axes` of `map_step`.
    bytes_each: Number of bytes that the arrays take on each device.
  """

  arrays: dict[str, Any]
  in_axes: Any
  bytes_each: int
  _placed: tuple["_Placed", ...] = ()

  def opened(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of the argument inside a step, in the form that `take_rows` reads."""
    axes = self.in_axes or {}
    return {
      name: array if axes.get(name) is None else RowShards(array, _mapping.AXIS)
      for name, array in arrays.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class _Placed:
  source: np.ndarray  # a reference, so that no other array gets the same `id`
  fingerprint: int
  on_devices: jax.Array


_PLACED: weakref.WeakValueDictionary[Any, _Placed] = weakref.WeakValueDictionary()


def take_rows(
  array: RowShards | Shaped[Array, "rows ..."], index: Int[Array, "..."]
) -> Shaped[Array, "..."]:
  """Rows of an array that is on every device, or is split over all devices.

  Args:
    array: The array, in the form in which the `prepare` function of batches gets it.
    index: Indices of the rows to return.
  """
  if not isinstance(array, RowShards):
    return jnp.asarray(array)[index]
  axis, rows = array.axis_name, array.rows
  # Every device looks up the rows that any device wants, with zeros for rows that it
  # does not hold. The sum over devices then sends each row to the device that wants it.
  wanted = lax.all_gather(jnp.reshape(index, -1), axis, tiled=True)
  wanted = wanted - lax.axis_index(axis) * len(rows)
  held = (wanted >= 0) & (wanted < len(rows))
  found = rows[jnp.where(held, wanted, 0)]
  held = held.reshape(-1, *(1,) * (found.ndim - 1))
  found = jnp.where(held, found, jnp.zeros((), found.dtype))
  found = lax.psum_scatter(found, axis, scatter_dimension=0, tiled=True)
  return found.reshape(*jnp.shape(index), *rows.shape[1:])


def share(
  arrays: Mapping[str, Any],
  devices: Sequence[Any],
  *,
  rows_of: Sequence[str] = (),
  mode: _mapping.Mode = "pmap",
) -> Resident:
  """Puts arrays on the devices, once for all programs that use them.

  Args:
    arrays: NumPy arrays by name, or arrays on the devices. A NumPy array that has
      changed since the last call is copied again.
    devices: Devices of this process.
    rows_of: Names of the arrays that only `take_rows` reads. They are split over the
      devices if all arrays take more than half of the memory of a device. With several
      processes they are never split.
    mode: Mode of `map_step` for the step that reads the arrays.
  """
  split = _to_split(arrays, devices, rows_of)
  placed, on_devices = [], {}
  for name, array in arrays.items():
    parts = mode if name in split else ""
    if isinstance(array, np.ndarray) and array.nbytes >= _SMALL:
      placed.append(_placed(array, devices, parts))
      on_devices[name] = placed[-1].on_devices
    else:
      on_devices[name] = _put(array, devices, parts)
  in_axes = None
  if split and mode == "pmap":
    in_axes = {name: 0 if name in split else None for name in arrays}
  leaves = jax.tree.leaves(on_devices)
  first = [leaf.addressable_shards[0].data for leaf in leaves]
  return Resident(on_devices, in_axes, sum(x.nbytes for x in first), tuple(placed))


def _to_split(arrays, devices, rows_of):
  """Names of the arrays that must be split."""
  most = device_bytes(devices)
  needed = sum(getattr(array, "nbytes", 0) for array in arrays.values())
  alone = len(devices) == 1 or jax.process_count() > 1
  if alone or most is None or needed <= most // 2:
    return frozenset()
  return frozenset(name for name in rows_of if isinstance(arrays[name], np.ndarray))


def _placed(array, devices, parts):
  key = id(array), tuple(devices), parts
  found, fingerprint = _PLACED.get(key), _fingerprint(array)
  if found is None or found.fingerprint != fingerprint:
    found = _Placed(array, fingerprint, _put(array, devices, parts))
    _PLACED[key] = found
  return found


def _put(array, devices, parts):
  """The array on every device, or a part of its rows on each.

  Args:
    array: The array.
    devices: Devices of this process.
    parts: Mode of the step, if rows are split over the devices; otherwise "".
  """
  if not parts:
    return _mapping.place(array, devices)
  share_of_each = -(-len(array) // len(devices))
  by_device = parts == "pmap"  # with an axis of devices before that of the rows
  leading = (
    (len(devices), share_of_each) if by_device else (len(devices) * share_of_each,)
  )

  def rows(index):
    first = (index[0].start or 0) * (share_of_each if by_device else 1)
    block = array[first : first + share_of_each]  # fewer, or none, on the last devices
    padding = [(0, share_of_each - len(block)), *[(0, 0)] * (array.ndim - 1)]
    block = np.pad(block, padding)
    return block[None] if by_device else block

  sharding = NamedSharding(_mapping.mesh_of(devices), PartitionSpec(_mapping.AXIS))
  return jax.make_array_from_callback((*leading, *array.shape[1:]), sharding, rows)


def _fingerprint(array):
  """Checksum of an array, by which a change of its values is noticed.

  For a large array a sample of rows is read, so a change may go unnoticed.
  """
  sampled = np.ascontiguousarray(array[:: max(1, array.nbytes // _READ)])
  words = sampled.reshape(-1).view(np.uint8)
  whole = len(words) // 512 * 512
  sums = words[:whole].view(np.uint64).reshape(-1, 64).sum(axis=1)
  return zlib.crc32(words[whole:].tobytes(), zlib.crc32(sums.tobytes()))


def device_bytes(devices: Sequence[Any] | None = None) -> int | None:
  """Memory of a device in bytes, or None if it is unknown.

  CPU devices share the memory of the machine equally.

  Args:
    devices: Devices of one kind, of this process. The default is all devices of this
      process.
  """
  devices = devices or jax.local_devices()
  if devices[0].platform == "cpu" and hasattr(os, "sysconf"):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // len(devices)
  return (devices[0].memory_stats() or {}).get("bytes_limit")

"""Steps on all devices of a process, mapped by `pmap` or compiled by `jit`.

A step gets some arguments whole and others split over the devices. Both modes take the
same arguments: rows are split as `[devices, rows / devices, ...]`.

| mode | the function sees | collectives |
|---|---|---|
| "pmap" | the rows of one device | its own, over the axis `AXIS` |
| "jit" | all rows, as global arrays | those that the compiler adds; `axis_name=None` |

In mode "jit", arrays that are too large for one device may be sharded by a rule.
"""

import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Literal
from typing import get_args

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

PyTree = Any
Mode = Literal["pmap", "jit"]
ShardRule = Callable[[str, tuple[int, ...]], PartitionSpec | None]

AXIS = "batch"  # name of the axis that `map_step` maps
MODES = get_args(Mode)


def map_step(
  function: Callable[..., Any],
  in_axes: tuple[Any, ...],
  *,
  out_axes: int | None = 0,
  donate: tuple[int, ...] = (),
  devices: Sequence[Any] | None = None,
  mode: Mode = "pmap",
) -> Any:
  """Maps a function over devices. It is compiled on the first call.

  Args:
    function: In mode "pmap" it is called on every device with the rows of that device,
      and collectives inside it use the axis `AXIS`. In mode "jit" it is called once,
      with the rows of all devices, and nothing inside it may name an axis.
    in_axes: Axis of each argument that is split over the devices, of the length of
      `devices`; the rows of a device are the next axis. None gives every device the
      whole argument. In mode "pmap" it may be a tree, with an axis for each array.
    out_axes: Axis along which results of the devices are stacked; before it is split
      in mode "jit" it is the axis of the rows. None returns the result of one device,
      so the results must be equal on all.
    donate: Positions of the arguments whose memory the results may reuse; their
      arrays are deleted.
    devices: Devices of this process alone; by default all, of all processes.
    mode: "pmap" or "jit".

  Raises:
    ValueError: If the mode is unknown, or it is "jit" and the devices are those of
      several processes.
  """
  check_mode(mode)
  if mode == "jit":
    return _jitted(
      function, in_axes, out_axes, donate, mesh_of(devices or jax.devices())
    )
  return jax.pmap(
    function,
    axis_name=AXIS,
    in_axes=in_axes,
    out_axes=out_axes,
    donate_argnums=donate,
    devices=devices,
  )


def check_mode(
  mode: str, shard: ShardRule | None = None, *, name: str = "mode"
) -> None:
  """Raises ValueError for an unknown mode, or a rule that the mode cannot follow.

  Args:
    mode: The mode.
    shard: Rule by which arrays are sharded.
    name: Name of the argument that has the mode, for the message.
  """
  if mode not in MODES:
    raise ValueError(f"{name}: expected one of {', '.join(MODES)}, got {mode!r}")
  if shard is not None and mode != "jit":
    raise ValueError(
      f"shard: expected {name}='jit' with a rule, as 'pmap' gives every device whole "
      f"arrays, got {name}={mode!r}"
    )


def axis_of(mode: Mode) -> str | None:
  """Axis of functions mapped in that mode: `AXIS`, or None for the whole batch."""
  return None if mode == "jit" else AXIS


def _jitted(function, in_axes, out_axes, donate, mesh):
  """The function of global arrays, with the arguments and results of `pmap`."""
  if len({device.process_index for device in mesh.devices.flat}) > 1:
    raise ValueError(
      "mode: expected 'pmap' with several processes, got 'jit', which maps over the "
      "devices of one process; use 'pmap', or start one process"
    )

  @functools.wraps(function)
  def with_device_axis(*arguments):
    whole = [
      tree if axis is None else jax.tree.map(functools.partial(_merged, axis), tree)
      for tree, axis in zip(arguments, in_axes, strict=True)
    ]
    results = function(*whole)
    if out_axes is None:
      return results
    split = functools.partial(_split, out_axes, mesh.size)
    return jax.tree.map(split, results)

  shardings = tuple(
    None if axis is None else NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXIS))
    for axis in in_axes
  )
  return jax.jit(with_device_axis, in_shardings=shardings, donate_argnums=donate)


def _merged(axis, x):
  """`[..., devices, rows, ...]` as `[..., devices * rows, ...]`."""
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _split(axis, devices, x):
  """`[..., rows, ...]` as `[..., devices, rows / devices, ...]`."""
  return x.reshape(*x.shape[:axis], devices, -1, *x.shape[axis + 1 :])


def place(
  tree: PyTree,
  devices: Sequence[Any] | None = None,
  *,
  shard: ShardRule | None = None,
  name: str = "",
) -> PyTree:
  """Puts arrays that are only read on the devices; may share the caller's memory.

  Args:
    tree: Arrays, random keys or numbers, on the host or on any devices.
    devices: Devices of this process; by default all.
    shard: Rule by which arrays are sharded, for mode "jit"; None puts every array on
      every device as a whole.
    name: Name of the tree, which begins the names that the rule gets.

  Raises:
    ValueError: If the devices cannot share an array as the rule says; names it.
  """
  return jax.device_put(tree, shardings(tree, devices, shard=shard, name=name))


def constrain(
  tree: PyTree,
  devices: Sequence[Any] | None = None,
  *,
  shard: ShardRule | None = None,
  name: str = "",
) -> PyTree:
  """Results of a step in mode "jit", laid out as `place` lays out its arguments.

  A state that is laid out as before is donated, and the next step does not compile.
  Arguments and errors as of `place`.
  """
  laid_out = shardings(tree, devices, shard=shard, name=name)
  return lax.with_sharding_constraint(tree, laid_out)


def shardings(
  tree: PyTree,
  devices: Sequence[Any] | None = None,
  *,
  shard: ShardRule | None = None,
  name: str = "",
) -> PyTree:
  """The sharding of every array: arguments and errors as of `place`."""
  mesh = mesh_of(devices or jax.local_devices())

  def one(path, leaf):
    spec = None
    if shard is not None:
      below = jax.tree_util.keystr(path, simple=True, separator="/")
      full = "/".join(filter(None, (name, below)))
      spec = _checked(shard, full, np.shape(leaf), mesh.size)
    return NamedSharding(mesh, spec or PartitionSpec())

  return jax.tree.map_with_path(one, tree)


def _checked(shard, name, shape, devices):
  """Returns the rule's answer for an array, if the devices can share it like that."""
  spec = shard(name, shape)
  if spec is None:
    return None
  split = [axis for axis, names in enumerate(spec) if names is not None]
  fits = (
    isinstance(spec, PartitionSpec)
    and len(split) <= 1
    and all(spec[axis] in (AXIS, (AXIS,)) for axis in split)
    and all(axis < len(shape) and shape[axis] % devices == 0 for axis in split)
  )
  if not fits:
    raise ValueError(
      f"shard: expected None, or a PartitionSpec that splits one axis by {AXIS!r} into "
      f"{devices} equal parts, for {name or 'the array'} of shape {shape}, got {spec}"
    )
  return spec


def fully_sharded(under: str = "", *, num_devices: int | None = None) -> ShardRule:
  """A rule by which every device holds an equal part of each array.

  The longest axis that the devices can share is split. Arrays without one, such as
  most biases of few devices' length, stay whole on every device.

  Args:
    under: Beginning of the names of the arrays that are sharded, such as "constants"
      for a frozen teacher; by default all.
    num_devices: Devices that share an array; by default all of this process.
  """
  count = num_devices or jax.local_device_count()

  def rule(name, shape):
    axes = [axis for axis, length in enumerate(shape) if length % count == 0 < length]
    if count == 1 or not axes or not f"{name}/".startswith(under and f"{under}/"):
      return None
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, AXIS)

  return rule


def mesh_of(devices: Sequence[Any]) -> Mesh:
  """The devices as a mesh of one axis, `AXIS`, which the compiler partitions."""
  return Mesh(np.array(devices), (AXIS,))


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
    name: Name of the number in the message.
    of: Name of the rows in the message.
  """
  if batch_size > 0 and batch_size % num_devices == 0:
    return
  below = batch_size // num_devices * num_devices
  nearest = [size for size in (below, below + num_devices) if size > 0]
  raise ValueError(
    f"{name}: {num_devices} devices cannot share {batch_size} {of} evenly; "
    f"nearest sizes that they can: {' or '.join(str(size) for size in nearest)}"
  )

"""Steps on all devices of a process, mapped by `pmap` or compiled by `jit`.

Some arguments of a step are split over the devices, and every device gets the others as
a whole. Both modes take the same arguments, in which rows are split as `[devices, rows
/ devices, ...]`.

| mode | arguments of the function | collectives |
|---|---|---|
| "pmap" | the rows of one device | written in the function, over the axis `AXIS` |
| "jit" | all rows, as global arrays | added by the compiler; pass `axis_name=None` |

In mode "jit", a rule may shard arrays that are too large for one device.
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
  """Maps a function over devices. The result is compiled on its first call.

  Args:
    function: Function of the arguments. In mode "pmap" it is called on every device
      with the rows of this device, and its collectives use the axis `AXIS`. In mode
      "jit" it is called once with the rows of all devices, and it must not name an
      axis.
    in_axes: Axis of each argument that is split over the devices. Its length is the
      number of devices, and the next axis has the rows of a device. None gives every
      device the whole argument. In mode "pmap" an entry may be a pytree with an axis
      for each array.
    out_axes: Axis along which the results of the devices are stacked. In mode "jit" it
      is the axis of the rows in the result of `function`. With None the result of one
      device is returned, so results must be equal on all devices.
    donate: Positions of the arguments whose memory the results may reuse. Their arrays
      are deleted by a call.
    devices: Devices of this process. The default is all devices of all processes.
    mode: "pmap" or "jit".

  Raises:
    ValueError: If the mode is unknown, or it is "jit" and the devices belong to several
      processes.
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
  """Raises ValueError for an unknown mode, or for a rule in another mode than "jit".

  Args:
    mode: Mode of `map_step`.
    shard: Rule by which arrays are sharded, or None.
    name: Name of the argument that holds the mode, for the message.
  """
  if mode not in MODES:
    raise ValueError(f"{name}: expected one of {', '.join(MODES)}, got {mode!r}")
  if shard is not None and mode != "jit":
    raise ValueError(
      f"shard: expected {name}='jit' with a rule, as 'pmap' gives every device whole "
      f"arrays, got {name}={mode!r}"
    )


def axis_of(mode: Mode) -> str | None:
  """Name of the mapped axis in a mode: `AXIS` for "pmap", None for "jit"."""
  return None if mode == "jit" else AXIS


def _jitted(function, in_axes, out_axes, donate, mesh):
  """Compiles a function of global arrays with the arguments of `pmap`."""
  if len({device.process_index for device in mesh.devices.flat}) > 1:
    raise ValueError(
      "mode: expected 'pmap' with several processes, got 'jit', which maps over the "
      "devices of one process; use 'pmap', or start one process"
    )

  # Arguments and results have an axis of devices, as in `pmap`. It is merged with the
  # rows and split again inside the program, where this moves no data between devices.
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
  """Merges `[..., devices, rows, ...]` to `[..., devices * rows, ...]`."""
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _split(axis, devices, x):
  """Splits `[..., rows, ...]` to `[..., devices, rows / devices, ...]`."""
  return x.reshape(*x.shape[:axis], devices, -1, *x.shape[axis + 1 :])


def place(
  tree: PyTree,
  devices: Sequence[Any] | None = None,
  *,
  shard: ShardRule | None = None,
  name: str = "",
) -> PyTree:
  """Puts arrays on the devices, for arguments that a step only reads.

  The result may share the memory of the given arrays, so it must not be donated.

  Args:
    tree: Pytree of arrays, random keys or numbers, on the host or on any devices.
    devices: Devices of this process, all by default.
    shard: Rule by which arrays are sharded, for mode "jit". With None every device
      holds every array as a whole.
    name: Name of the tree. Names of arrays that are passed to the rule begin with it.

  Raises:
    ValueError: If the devices cannot share an array as the rule says. The message names
      the array.
  """
  return jax.device_put(tree, shardings(tree, devices, shard=shard, name=name))


def constrain(
  tree: PyTree,
  devices: Sequence[Any] | None = None,
  *,
  shard: ShardRule | None = None,
  name: str = "",
) -> PyTree:
  """Results of a step in mode "jit", with the shardings that `place` gives arguments.

  If the state keeps its shardings, its memory can be donated, and the next step is not
  compiled again. Arguments and errors are those of `place`.
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
  """Sharding of every array. Arguments and errors are those of `place`."""
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
  """Partition of an array by a rule, after a check that the devices can share it."""
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
  """Rule by which every device holds an equal part of each array.

  The longest axis whose length the number of devices divides is split. Arrays without
  such an axis, such as short biases, stay whole on every device.

  Args:
    under: First part of the names of the arrays to shard, such as "constants" for a
      frozen teacher. The default is all arrays.
    num_devices: Number of devices that share an array. The default is the number of
      devices of this process.
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
  """Mesh of the devices with one axis, `AXIS`."""
  return Mesh(np.array(devices), (AXIS,))


def split_rows(
  batch: Mapping[str, np.ndarray], num_devices: int
) -> dict[str, np.ndarray]:
  """Reshapes `[rows, ...]` to `[devices, rows / devices, ...]`.

  Raises:
    ValueError: If the number of devices does not divide the number of rows.
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
  """Raises ValueError unless the number of devices divides the batch size.

  The message names the nearest sizes that the devices can share.

  Args:
    batch_size: Number of rows in a step.
    num_devices: Number of devices that share the rows.
    name: Name of the argument for `batch_size`, for the message.
    of: Name of the rows, for the message.
  """
  if batch_size > 0 and batch_size % num_devices == 0:
    return
  below = batch_size // num_devices * num_devices
  nearest = [size for size in (below, below + num_devices) if size > 0]
  raise ValueError(
    f"{name}: {num_devices} devices cannot share {batch_size} {of} evenly; "
    f"nearest sizes that they can: {' or '.join(str(size) for size in nearest)}"
  )

"""Training step on all devices, with a state that has no device axis.

In mode "pmap" the step is written for one device, with collectives over
`parallel.AXIS`. Every device gets the same state, constants and resident data
(`in_axes=None`); only the batch is split. The results are equal on all devices
(`out_axes=None`), so a checkpoint does not depend on the number of devices. With
several processes, each process has its own devices and rows of the batch, and
collectives span all processes. In mode "jit" the step is written for the whole batch;
state and constants may be sharded.
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

from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax.train import _parallelism

PyTree = Any
HostBatch = Mapping[str, np.ndarray]

_MOST_BYTES = 2**27  # limit for the batches of one call
_MOST_OF_BLOCK = 32  # steps; larger blocks would hardly reduce the waits between them


class DeviceStep:
  """Update of a method, mapped over devices, with one or several steps per call.

  Call it with a state from `place_state` and a batch of host arrays. The state is
  donated: its arrays are deleted, so continue with the returned state. `place_state`
  makes a copy, so the arrays that it was given are not deleted.

  `run` takes several steps in one call of a second program, a loop around the same
  step. It takes whole blocks of steps. The reason: a GPU waits for its host in each
  iteration of a loop whose length is unknown at compile time, which costs 0.09 ms per
  step on an H100, 13 % of a small network's step. Within a block the length is known.
  """

  def __init__(
    self,
    method: methods.Method,
    prepare: Callable[[PyTree, PyTree], PyTree],
    resident: PyTree,
    *,
    devices: Sequence[Any] | None = None,
    steps_per_call: int = 1,
    steps_per_epoch: int = 1,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
    row_arrays: Sequence[str] = (),
  ):
    """Place constants and resident data on the devices; compile at the first call.

    Args:
      method: Method, made with `axis_name="batch"` for "pmap" or None for "jit".
      prepare: Function `(resident, batch) -> batch` that turns rows of the host's batch
        into the arrays that the update reads. It runs on the device.
      resident: Arrays that stay on the devices. Equal arrays are placed only once.
      devices: Devices of this process, if it trains alone. By default all devices of
        all processes.
      steps_per_call: Maximum number of steps in one `run`.
      steps_per_epoch: Number of steps in an epoch. An epoch is a multiple of a block.
      parallelism: Mapping of the step, "pmap" or "jit".
      shard: Rule that shards state and constants, for "jit"; see
        `parallel.fully_sharded`. The names that it gets begin with "state" and
        "constants". None puts whole copies on every device.
      row_arrays: Names of resident arrays that `prepare` reads only by
        `parallel.take_rows`. They may be split over the devices if they do not fit on
        one device.

    Raises:
      ValueError: If the method was made for another parallelism, or an array cannot be
        sharded as the rule demands.
    """
    self.devices = list(devices or jax.local_devices())
    self._steps_per_call, self._steps_per_epoch = steps_per_call, steps_per_epoch
    self._shard = shard
    num_devices = len(self.devices) * jax.process_count()
    _parallelism.check_method_fits(method, parallelism, num_devices, shard=shard)
    self.constants = parallel.place(
      method.constants, self.devices, shard=shard, name="constants"
    )
    self._resident = parallel.share(
      resident, self.devices, rows_of=row_arrays, mode=parallelism
    )

    def step(state, constants, resident, batch):
      # Without the barrier, XLA for GPUs fuses augmentation into the first convolution
      # and computes it again for every overlapping window, in student and teacher.
      opened = self._resident.opened(resident)
      prepared = lax.optimization_barrier(prepare(opened, batch))
      with _parallelism.statistics_of_all_rows(parallelism, num_devices):
        state, metrics = method.update(state, prepared, constants)
      if parallelism == "jit":
        state = parallel.constrain(state, self.devices, shard=shard, name="state")
        metrics = parallel.constrain(metrics, self.devices)
      return state, metrics

    mapped_over = self.devices if devices or jax.process_count() == 1 else None
    self._step = parallel.map_step(
      step,
      in_axes=(None, None, self._resident.in_axes, 0),
      out_axes=None,
      donate=(0,),
      devices=mapped_over,
      mode=parallelism,
    )
    self._blocks = functools.cache(
      lambda block: parallel.map_step(
        _repeated(step, block),
        in_axes=(None, None, self._resident.in_axes, 1, None),
        out_axes=None,
        donate=(0,),
        devices=mapped_over,
        mode=parallelism,
      )
    )

  def place_state(self, state: PyTree) -> PyTree:
    """Copy a state to the devices, sharded if there is a rule; it may be donated.

    Args:
      state: Arrays, random keys or numbers, on the host or on any devices.
    """
    return replicate(state, self.devices, shard=self._shard, name="state")

  def __call__(self, state: PyTree, batch: HostBatch) -> tuple[PyTree, PyTree]:
    """Returns `(state, metrics)` after one update.

    Raises:
      ValueError: If the devices cannot share the batch, or there are several and a
        BatchNorm layer would take the statistics of one device's rows.
    """
    rows = parallel.split_rows(batch, len(self.devices))
    return self._step(state, self.constants, self._resident.arrays, rows)

  def run(self, state: PyTree, batches: Sequence[HostBatch]) -> tuple[PyTree, PyTree]:
    """Returns `(state, metrics)` after one update for each batch.

    Compiled once: the number of blocks is an argument of the program.

    Args:
      state: State of the method, in the form of a call.
      batches: A multiple of `block_size`, up to `most_steps`.

    Returns:
      The state, and arrays of metrics with one number for each of `most_steps` steps;
      those of steps that were not taken are 0.

    Raises:
      ValueError: As a call, or if there are more batches, none or no whole blocks.
    """
    if not batches:
      raise ValueError("batches: expected one or more, got none")
    block, most = self.block_size(batches[0]), self.most_steps(batches[0])
    blocks, rest = divmod(len(batches), block)
    if rest or len(batches) > most:
      raise ValueError(
        f"batches: expected a multiple of {block}, {most} at most, got {len(batches)}"
      )
    rows = _stacked(batches, most, len(self.devices))
    several_steps = self._blocks(block)
    return several_steps(
      state, self.constants, self._resident.arrays, rows, np.int32(blocks)
    )

  def block_size(self, batch: HostBatch) -> int:
    """Number of steps in a block; `run` and an epoch take a multiple of it."""
    largest = min(_MOST_OF_BLOCK, self._fitting(batch))
    sizes = range(1, largest + 1)
    return max(size for size in sizes if self._steps_per_epoch % size == 0)

  def most_steps(self, batch: HostBatch) -> int:
    """Maximum number of steps in one `run`, given the size of its batches."""
    block = self.block_size(batch)
    return self._fitting(batch) // block * block

  def _fitting(self, batch: HostBatch) -> int:
    fitting = _MOST_BYTES // max(batch_bytes(batch), 1)
    return max(1, min(self._steps_per_call, fitting))

  def needed_bytes(self, state: PyTree, batch: HostBatch) -> int:
    """Memory of a call on each device in bytes, including arguments and results.

    A single step is compiled but not run. The program of many steps needs about the
    same memory; the stacked batches of `run` are added. Errors as in a call.
    """
    rows = parallel.split_rows(batch, len(self.devices))
    lowered = self._step.lower(state, self.constants, self._resident.arrays, rows)
    sizes = lowered.compile().memory_analysis()
    # Donated results share the memory of arguments, which are counted already.
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    single = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + results
    further = (self.most_steps(batch) - 1) * batch_bytes(batch)
    return single + further // len(self.devices)


def batch_bytes(batch: HostBatch) -> int:
  """Size of the arrays of a host batch in bytes."""
  return sum(array.nbytes for array in batch.values())


def _repeated(
  step: Callable[..., tuple[PyTree, PyTree]], block: int
) -> Callable[..., Any]:
  """Repeat a step: `(state, constants, resident, batches, blocks)`."""
  # Jitted so that tracing happens once, although the step is called twice below.
  traced_step = jax.jit(step, inline=True)

  def steps(state, constants, resident, batches, blocks):
    def one(state, batch):
      return traced_step(state, constants, resident, batch)

    def one_block(number, carried):
      state, collected = carried
      first = number * block
      rows = jax.tree.map(
        lambda all_rows: lax.dynamic_slice_in_dim(all_rows, first, block), batches
      )
      state, metrics = lax.scan(one, state, rows)
      collected = jax.tree.map(
        lambda all_steps, values: lax.dynamic_update_slice_in_dim(
          all_steps, values, first, 0
        ),
        collected,
        metrics,
      )
      return state, collected

    _, shapes = jax.eval_shape(one, state, jax.tree.map(lambda rows: rows[0], batches))
    most = jax.tree.leaves(batches)[0].shape[0]
    collected = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), shapes)
    # The number of blocks is an argument of the program, so that another number of
    # steps does not compile another program.
    zero = jnp.zeros((), jnp.int32)
    return lax.fori_loop(zero, blocks, one_block, (state, collected))

  return steps


def _stacked(
  batches: Sequence[HostBatch], most: int, num_devices: int
) -> dict[str, np.ndarray]:
  """Stack batches to `[most, devices, rows / devices, ...]`, padded by zeros."""
  stacked = {}
  for name, array in parallel.split_rows(batches[0], num_devices).items():
    stacked[name] = np.zeros((most, *array.shape), array.dtype)
    flat = stacked[name].reshape(most, *batches[0][name].shape)
    for number, batch in enumerate(batches):
      flat[number] = batch[name]
  return stacked


def replicate(
  tree: PyTree,
  devices: Sequence[Any] | None = None,
  *,
  shard: parallel.ShardRule | None = None,
  name: str = "",
) -> PyTree:
  """Copy arrays to every device of this process, without a device axis.

  The result may be donated: it shares no memory with `tree`, and no two of its arrays
  share memory, even if `tree` holds an array twice (tied weights, or an optimizer that
  keeps the initial parameters).

  Args:
    tree: Arrays, random keys or numbers, on the host or on any devices.
    devices: Devices of this process; by default all.
    shard: Rule that shards arrays instead of copying them to every device.
    name: Prefix of the names that the rule gets.
  """
  # `device_put(may_alias=False)` still shares the buffer on the device where the array
  # already is; donation would then delete the caller's array.
  return parallel.place(
    jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree),
    devices,
    shard=shard,
    name=name,
  )

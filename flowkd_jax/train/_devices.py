"""One training step on all devices, with state that has no device axis.

The step is written for one device with collectives over `parallel.AXIS`. State,
constants and resident data are handed to every device as they are (`in_axes=None`).
Only the batch is split, and what comes back is the same on all devices
(`out_axes=None`), so a checkpoint does not know how many devices there were. Of several
processes each has its devices and its rows of the batch; collectives span them all.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import parallel

PyTree = Any
HostBatch = Mapping[str, np.ndarray]

_MOST_BYTES = 2**27  # of the batches of one call


class DeviceStep:
  """A method's update, mapped over devices, for one step or several in one call.

  Call it with a state that was `replicate`d and a batch of host arrays. The state is
  donated: its arrays are deleted, so use the state that the call returns. `replicate`
  copies, so nothing that the state was made from is deleted.

  `run` takes several steps in one call of a second program, a loop around the same
  step. The devices do not wait for the host between these steps.
  """

  def __init__(
    self,
    method: methods.Method,
    prepare: Callable[[PyTree, PyTree], PyTree],
    resident: PyTree,
    *,
    devices: Sequence[Any] | None = None,
    steps_per_call: int = 1,
  ):
    """Puts constants and resident data on every device and compiles on first call.

    Args:
      method: Made with `axis_name="batch"`.
      prepare: `(resident, batch) -> batch`, from rows of the host's batch to what
        the update reads; runs on the device.
      resident: Arrays that every device keeps.
      devices: Devices of this process alone; by default all, of all processes.
      steps_per_call: Maximum number of steps in one `run`.
    """
    self.devices = list(devices or jax.local_devices())
    self._steps_per_call = steps_per_call
    self._constants = parallel.place(method.constants, self.devices)
    self._resident = parallel.place(resident, self.devices)

    several = len(self.devices) * jax.process_count() > 1

    def step(state, constants, resident, batch):
      axis = parallel.AXIS
      with capture.statistics_over(axis) if several else contextlib.nullcontext():
        return method.update(state, prepare(resident, batch), constants)

    mapped_over = self.devices if devices or jax.process_count() == 1 else None
    self._step = parallel.map_step(
      step,
      in_axes=(None, None, None, 0),
      out_axes=None,
      donate=(0,),
      devices=mapped_over,
    )
    self._steps = parallel.map_step(
      _repeated(step),
      in_axes=(None, None, None, 1, None),
      out_axes=None,
      donate=(0,),
      devices=mapped_over,
    )

  def __call__(self, state: PyTree, batch: HostBatch) -> tuple[PyTree, PyTree]:
    """Returns `(state, metrics)` after one update.

    Raises:
      ValueError: If the devices cannot share the batch, or there are several and a
        BatchNorm layer would take the statistics of one device's rows.
    """
    rows = parallel.split_rows(batch, len(self.devices))
    return self._step(state, self._constants, self._resident, rows)

  def run(self, state: PyTree, batches: Sequence[HostBatch]) -> tuple[PyTree, PyTree]:
    """Returns `(state, metrics)` after one update for each batch.

    Compiled once: the number of batches is an argument of the program.

    Args:
      state: As in a call.
      batches: Up to `most_steps` of them.

    Returns:
      The state, and arrays of metrics with one number for each of `most_steps` steps;
      those of steps that were not taken are 0.

    Raises:
      ValueError: As a call, or if there are more batches, or none.
    """
    most = self.most_steps(batches[0]) if batches else 0
    if not 1 <= len(batches) <= most:
      raise ValueError(f"batches: expected 1 to {most} of them, got {len(batches)}")
    rows = _stacked(batches, most, len(self.devices))
    count = np.int32(len(batches))
    return self._steps(state, self._constants, self._resident, rows, count)

  def most_steps(self, batch: HostBatch) -> int:
    """Maximum number of steps in one `run`: its batches are bounded in bytes."""
    size = sum(array.nbytes for array in batch.values())
    return max(1, min(self._steps_per_call, _MOST_BYTES // max(size, 1)))

  def needed_bytes(self, state: PyTree, batch: HostBatch) -> int:
    """Memory of a step on every device, its arguments and results included.

    Compiles the step and does not run it. Errors as in a call.
    """
    rows = parallel.split_rows(batch, len(self.devices))
    lowered = self._step.lower(state, self._constants, self._resident, rows)
    sizes = lowered.compile().memory_analysis()
    # What is donated is counted among the arguments already.
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + results


def _repeated(step: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., Any]:
  """The step, repeated: `(state, constants, resident, batches, count)`."""
  # Traced once, although it is called twice below.
  traced_step = jax.jit(step, inline=True)

  def steps(state, constants, resident, batches, count):
    def one(number, state):
      batch = jax.tree.map(
        lambda rows: lax.dynamic_index_in_dim(rows, number, keepdims=False), batches
      )
      return traced_step(state, constants, resident, batch)

    def body(number, carried):
      state, collected = carried
      state, metrics = one(number, state)
      collected = jax.tree.map(
        lambda all_steps, value: lax.dynamic_update_index_in_dim(
          all_steps, value, number, 0
        ),
        collected,
        metrics,
      )
      return state, collected

    zero = jnp.zeros((), jnp.int32)
    _, shapes = jax.eval_shape(one, zero, state)
    most = jax.tree.leaves(batches)[0].shape[0]
    collected = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), shapes)
    # A loop whose number of rounds is known when the program runs: fewer steps do not
    # compile another program.
    return lax.fori_loop(zero, count, body, (state, collected))

  return steps


def _stacked(
  batches: Sequence[HostBatch], most: int, num_devices: int
) -> dict[str, np.ndarray]:
  """Stacks `[rows, ...]` to `[most, devices, rows / devices, ...]`, padded by zeros."""
  stacked = {}
  for name, array in parallel.split_rows(batches[0], num_devices).items():
    stacked[name] = np.zeros((most, *array.shape), array.dtype)
    flat = stacked[name].reshape(most, *batches[0][name].shape)
    for number, batch in enumerate(batches):
      flat[number] = batch[name]
  return stacked


def replicate(tree: PyTree, devices: Sequence[Any] | None = None) -> PyTree:
  """Copies arrays to every device of this process, without a device axis.

  The result may be donated: it shares no memory with `tree`, and no two arrays of it
  share memory, even if `tree` holds one array twice (tied weights, an optimizer that
  keeps the first parameters).

  Args:
    tree: Arrays, random keys or numbers, on the host or on any devices.
    devices: Devices of this process; by default all.
  """
  # `device_put(may_alias=False)` still shares the buffer of the device that the array
  # is on; donating it would delete the caller's array.
  return parallel.place(
    jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree), devices
  )

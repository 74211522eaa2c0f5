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

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import parallel

PyTree = Any
HostBatch = Mapping[str, np.ndarray]


class DeviceStep:
  """A method's update, mapped over devices.

  Call it with a state that was `replicate`d and a batch of host arrays. The state is
  donated: its arrays are deleted, so use the state that the call returns. `replicate`
  copies, so nothing that the state was made from is deleted.
  """

  def __init__(
    self,
    method: methods.Method,
    prepare: Callable[[PyTree, PyTree], PyTree],
    resident: PyTree,
    *,
    devices: Sequence[Any] | None = None,
  ):
    """Puts constants and resident data on every device and compiles on first call.

    Args:
      method: Made with `axis_name="batch"`.
      prepare: `(resident, batch) -> batch`, from rows of the host's batch to what
        the update reads; runs on the device.
      resident: Arrays that every device keeps.
      devices: Devices of this process alone; by default all, of all processes.
    """
    self.devices = list(devices or jax.local_devices())
    self._constants = parallel.place(method.constants, self.devices)
    self._resident = parallel.place(resident, self.devices)

    several = len(self.devices) * jax.process_count() > 1

    def step(state, constants, resident, batch):
      axis = parallel.AXIS
      with capture.statistics_over(axis) if several else contextlib.nullcontext():
        return method.update(state, prepare(resident, batch), constants)

    self._step = parallel.map_step(
      step,
      in_axes=(None, None, None, 0),
      out_axes=None,
      donate=(0,),
      devices=self.devices if devices or jax.process_count() == 1 else None,
    )

  def __call__(self, state: PyTree, batch: HostBatch) -> tuple[PyTree, PyTree]:
    """Returns `(state, metrics)` after one update.

    Raises:
      ValueError: If the devices cannot share the batch, or there are several and a
        BatchNorm layer would take the statistics of one device's rows.
    """
    rows = parallel.split_rows(batch, len(self.devices))
    return self._step(state, self._constants, self._resident, rows)

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

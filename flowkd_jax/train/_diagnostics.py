"""Diagnostics of a method on a fixed batch, computed between training steps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax.train import _parallelism


class Diagnostics:
  """Diagnostics of a method on one fixed batch, as `Method.observe` defines them.

  They are a separate program, so the training step stays bit-identical.
  """

  def __init__(
    self,
    method: methods.Method,
    batches: data.Batches,
    *,
    devices: Sequence[Any] | None = None,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
  ):
    """Prepare the batch; compile at the first call.

    Args:
      method: See `DeviceStep`.
      batches: Training batches. Diagnostics use the first batch of the first epoch.
      devices: Devices of this process; by default all.
      parallelism: See `DeviceStep`.
      shard: See `DeviceStep`.

    Raises:
      ValueError: If the devices cannot share a batch, or the method was made for
        another parallelism.
    """
    self._observe = None
    observe = method.observe
    if observe is None:
      return
    self._devices = list(devices or jax.local_devices())
    _parallelism.check_method_fits(
      method, parallelism, len(self._devices) * jax.process_count(), shard=shard
    )
    self._constants = parallel.place(
      method.constants, self._devices, shard=shard, name="constants"
    )
    self._resident = parallel.share(
      batches.resident,
      self._devices,
      rows_of=getattr(batches, "row_arrays", ()),
      mode=parallelism,
    )
    self._rows = parallel.split_rows(next(batches.epoch(0)), len(self._devices))

    def step(state, resident, rows, constants):
      batch = batches.prepare(self._resident.opened(resident), rows)
      # The zero is there because `pmap` over several processes fails without outputs.
      return observe(state, batch, constants), jnp.zeros(())

    self._observe = parallel.map_step(
      step,
      in_axes=(None, self._resident.in_axes, 0, None),
      out_axes=None,
      devices=self._devices,
      mode=parallelism,
    )

  def __call__(self, state: Any) -> dict[str, jax.Array]:
    """Diagnostics of a state on the devices; {} if the method has none.

    The values stay on a device, so that training does not wait for them. `float` waits.
    """
    if self._observe is None:
      return {}
    metrics, _ = self._observe(
      state, self._resident.arrays, self._rows, self._constants
    )
    return metrics

"""Batches that are read and decoded while the devices compute."""

import contextlib
import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flowkd_jax import _extra
from flowkd_jax._numerics.checks import check_count
from flowkd_jax.data._batches import PlannedBatches


@dataclasses.dataclass(frozen=True, eq=False)
class StreamBatches(PlannedBatches):
  """`Batches` whose images are read by the host for each step.

  Use it for data sets that do not fit into device memory. The batches equal those of
  `MemoryBatches` with the same options. Make it by `StreamBatches(open_source(...),
  batch_size=..., seed=..., mean=..., std=...)`; further options are those of
  `PlannedBatches`.

  Attributes:
    threads: Number of batches decoded at the same time.
    prefetch: Number of batches decoded in advance, in host memory.
  """

  _: dataclasses.KW_ONLY
  threads: int = 8
  prefetch: int = 8

  def __post_init__(self):
    super().__post_init__()
    check_count("threads", self.threads)
    check_count("prefetch", self.prefetch)

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield index, epoch, mask, image and label of each step from `start_step` on."""
    self.plan.check_position(epoch, start_step)
    return self._stream(epoch, start_step)

  def _stream(self, epoch: int, start_step: int) -> Iterator[dict]:
    _extra.require("data", ("grain",))
    import grain

    if start_step == self.steps_per_epoch:
      return
    order = self.plan.order(epoch)

    def read_step(step: int) -> dict[str, np.ndarray]:
      rows = self.plan.step_rows(order, epoch, step)
      images, labels = self.source.read(rows["index"])
      return rows | {"image": images, "label": labels}

    # An element is a batch, not an example: one call reads all its records.
    steps = grain.MapDataset.range(start_step, self.steps_per_epoch)
    options = grain.ReadOptions(
      num_threads=self.threads, prefetch_buffer_size=self.prefetch
    )
    batches = iter(steps.map(read_step).to_iter_dataset(options))
    # Stops the threads if the caller leaves in the middle of an epoch.
    with contextlib.closing(batches):
      yield from batches

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Augment and normalise the rows of `batch`."""
    images, labels = (jnp.asarray(batch[name]) for name in ("image", "label"))
    return self.prepare_rows(images, labels, resident, batch)

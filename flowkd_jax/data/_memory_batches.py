"""Batches of a split that is kept in device memory."""

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flowkd_jax import parallel
from flowkd_jax.data._batches import PlannedBatches
from flowkd_jax.data._split import Split


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryBatches(PlannedBatches):
  """`Batches` whose images are sent to the devices once; a step sends only indices.

  Use it for data sets that fit into device memory; the training images of CIFAR-10 take
  154 MB on each device. If the images take more than half of a device's memory, each
  device holds a part of them. Make it by `MemoryBatches(split, batch_size=...,
  seed=..., mean=..., std=...)`; further options are those of `PlannedBatches`.
  """

  source: Split

  def __post_init__(self):
    if not isinstance(self.source, Split):
      raise TypeError(
        f"source: expected a Split, got {type(self.source).__name__}; use "
        "load instead of open_source, or StreamBatches"
      )
    super().__post_init__()

  @property
  def resident(self) -> dict[str, np.ndarray]:
    """All images and labels of the split, and the seed."""
    examples = {"images": self.source.images, "labels": self.source.labels}
    return super().resident | examples

  @property
  def row_arrays(self) -> tuple[str, ...]:
    """Names of resident arrays that are read by `take_rows` and may be split."""
    return "images", "labels"

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield index, epoch and mask of each step, from `start_step` on."""
    return self.plan.epoch_rows(epoch, start_step)

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Gather, augment and normalise the rows of `batch`."""
    index = jnp.asarray(batch["index"])
    images = parallel.take_rows(resident["images"], index)
    labels = parallel.take_rows(resident["labels"], index)
    return self.prepare_rows(images, labels, resident, batch)

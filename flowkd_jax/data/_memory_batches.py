"""Batches of a split that lies on every device as a whole."""

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
  """`Batches` whose images go to the devices once; a step sends only indices.

  For data sets that fit there: the training images of CIFAR-10 take 154 MB on each
  device. If they would take more than half of its memory, each holds a part of them.
  `MemoryBatches(split, batch_size=..., seed=..., mean=..., std=...)`; the
  other options are those of `PlannedBatches`.
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
    """Arrays of `resident` that may be split over devices: read by `take_rows`."""
    return "images", "labels"

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Index, epoch and mask of every step from `start_step` on."""
    return self.plan.epoch_rows(epoch, start_step)

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Gathers, augments and normalises the rows of `batch`."""
    index = jnp.asarray(batch["index"])
    images = parallel.take_rows(resident["images"], index)
    labels = parallel.take_rows(resident["labels"], index)
    return self.prepare_rows(images, labels, resident, batch)

"""Interface of batches for the training loop, and their common base class."""

import dataclasses
import functools
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Int32
from jaxtyping import UInt8

from flowkd_jax.data._augment import Augmentation
from flowkd_jax.data._augment import augment
from flowkd_jax.data._augment import check_colors
from flowkd_jax.data._augment import check_normalization
from flowkd_jax.data._augment import example_keys
from flowkd_jax.data._augment import normalize
from flowkd_jax.data._plan import EpochPlan
from flowkd_jax.data._split import Source


class Batches(Protocol):
  """Batches of a split, determined by a seed and resumable at any step.

  The host yields small arrays. `prepare` processes the images on the devices:

      resident = place(batches.resident)             # once
      for batch in batches.epoch(epoch, start_step):
        state = step(state, resident, split_over_devices(batch))

      def step(state, resident, batch):              # mapped, jitted
        batch = batches.prepare(resident, batch)
        ...

  A row is usually an image. In `FederatedBatches` it is a client with all its
  minibatches, and arrays have more axes than described here.
  """

  @property
  def num_examples(self) -> int:
    """Number of examples in the split."""
    ...

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    ...

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of a prepared image."""
    ...

  @property
  def batch_size(self) -> int:
    """Number of rows in a step over all processes, the first axis of its arrays."""
    ...

  @property
  def steps_per_epoch(self) -> int:
    """Number of steps in an epoch, including the padded one."""
    ...

  @property
  def resident(self) -> Mapping[str, np.ndarray]:
    """Arrays that every device needs, placed there once; may be empty.

    Batches may have a property `row_arrays`: the names of the arrays that `prepare`
    reads by `parallel.take_rows`. Large ones can then be split over the devices.
    """
    ...

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield the host arrays of each step, from `start_step` on.

    A step has the `batch_size / process_count` rows of this process: "index" (int32,
    number of the example), "epoch" (int32, constant), "mask" (bool, false for padding
    of the last batch) and, if images are streamed, "image" and "label".

    Raises:
      ValueError: If there is no such epoch or step.
    """
    ...

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Prepare normalised images, labels and mask of some rows; pure, can be jitted.

    Args:
      resident: `self.resident`, on the device.
      batch: Some rows of a step of `epoch`.

    Returns:
      "image", floating [rows, height, width, channels]; "label", int32 [rows]; "mask",
      bool [rows]; and "index", int32 [rows], the position in the split.
    """
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedBatches:
  """Base class of `Batches` whose images are in memory or streamed.

  Attributes:
    source: Source of the examples.
    batch_size: Number of rows in a step, over all processes.
    seed: Seed of the shuffle and of the augmentation, in 0..2**32-1.
    mean: Mean of each channel, in units of 0..255.
    std: Standard deviation of each channel, in units of 0..255.
    augmentation: Random changes of the images.
    shuffle: True for a new order in every epoch, False for the order of the split.
    drop_last: True to leave out the last, short batch in place of padding it.
    dtype: Data type of the prepared images.
    process_index: Number of this process, in 0..process_count-1.
    process_count: Number of processes; each yields a contiguous part of every batch.

  Raises:
    ValueError: If a number is out of range.
    TypeError: If `dtype` is not floating point.
  """

  source: Source
  _: dataclasses.KW_ONLY
  batch_size: int
  seed: int
  mean: Sequence[float]
  std: Sequence[float]
  augmentation: Augmentation = Augmentation()
  shuffle: bool = True
  drop_last: bool = False
  dtype: DTypeLike = jnp.float32
  process_index: int = 0
  process_count: int = 1

  def __post_init__(self):
    check_normalization(self.mean, self.std, self.image_shape[-1])
    check_colors(self.augmentation, self.image_shape[-1])
    if not jnp.issubdtype(self.dtype, jnp.floating):
      raise TypeError(
        f"dtype: expected a floating-point dtype for images, got {self.dtype}; "
        "for example jnp.float32"
      )
    self.plan  # noqa: B018 (its checks belong to construction)

  @property
  def resident(self) -> dict[str, np.ndarray]:
    """Array of the seed. As an argument, it does not change the compiled program."""
    return {"seed": np.asarray(self.seed, np.uint32)}

  @functools.cached_property
  def plan(self) -> EpochPlan:
    """Examples of each step."""
    return EpochPlan(
      num_examples=self.source.num_examples,
      batch_size=self.batch_size,
      seed=self.seed,
      shuffle=self.shuffle,
      drop_last=self.drop_last,
      process_index=self.process_index,
      process_count=self.process_count,
    )

  @property
  def num_examples(self) -> int:
    """Number of examples in the split."""
    return self.source.num_examples

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return self.source.num_classes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of a prepared image."""
    return self.source.image_shape

  @property
  def steps_per_epoch(self) -> int:
    """Number of steps in an epoch, including the padded one."""
    return self.plan.steps_per_epoch

  def prepare_rows(
    self,
    images: UInt8[Array, "rows height width channels"],
    labels: Int32[Array, " rows"],
    resident: Mapping[str, Array],
    batch: Mapping[str, Array],
  ) -> dict[str, Array]:
    """Augment and normalise gathered images; see `Batches.prepare`."""
    if self.augmentation != Augmentation():
      epoch = jnp.asarray(batch["epoch"])
      index = jnp.asarray(batch["index"])
      images = augment(
        images,
        example_keys(resident["seed"], epoch, index),
        **dataclasses.asdict(self.augmentation),
      )
    return {
      "image": normalize(images, self.mean, self.std, self.dtype),
      "label": labels,
      "mask": jnp.asarray(batch["mask"]),
      "index": jnp.asarray(batch["index"]),
    }

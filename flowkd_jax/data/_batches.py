"""Interface of batches for the training loop, and the parts that all kinds share."""

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
  """Batches of a split: the same for the same seed, resumable at any step.

  The host yields small arrays; the work on images happens in `prepare`, on the
  devices:

      resident = place(batches.resident)             # once
      for batch in batches.epoch(epoch, start_step):
        state = step(state, resident, split_over_devices(batch))

      def step(state, resident, batch):              # mapped, jitted
        batch = batches.prepare(resident, batch)
        ...

  A row may be more than an image: in `FederatedBatches` it is a client with all its
  minibatches, and arrays have more axes than is said below.
  """

  @property
  def num_examples(self) -> int:
    """Examples in the split."""
    ...

  @property
  def num_classes(self) -> int:
    """Classes of the labels."""
    ...

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of a prepared image."""
    ...

  @property
  def batch_size(self) -> int:
    """Rows of a step over all processes: the first axis of its arrays."""
    ...

  @property
  def steps_per_epoch(self) -> int:
    """Steps of an epoch, the padded one included."""
    ...

  @property
  def resident(self) -> Mapping[str, np.ndarray]:
    """Arrays that every device needs, to be put there once; may be empty.

    Batches may have a property `row_arrays`: names of those that `prepare` reads by
    `parallel.take_rows`, so that large ones can be split over the devices.
    """
    ...

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Host arrays of every step from `start_step` on.

    Each has this process's rows, batch_size / process_count of them: "index"
    (int32, the example), "epoch" (int32, constant), "mask" (bool, false for the
    rows that pad the last batch) and, when streaming, "image" and "label".

    Raises:
      ValueError: No such epoch or step.
    """
    ...

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Normalised images, labels and mask of some rows: pure, to be jitted.

    Args:
      resident: `self.resident`, on the device.
      batch: Any rows of what `epoch` yields.

    Returns:
      "image" [rows, height, width, channels] floating, "label" int32 [rows],
      "mask" bool [rows], "index" int32 [rows], the position in the split.
    """
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedBatches:
  """The part of `Batches` that does not depend on where the images lie.

  Attributes:
    source: The examples.
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
    """The seed: compiled code that gets it as an array serves every seed."""
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
    """Examples in the split."""
    return self.source.num_examples

  @property
  def num_classes(self) -> int:
    """Classes of the labels."""
    return self.source.num_classes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of a prepared image."""
    return self.source.image_shape

  @property
  def steps_per_epoch(self) -> int:
    """Steps of an epoch, the padded one included."""
    return self.plan.steps_per_epoch

  def prepare_rows(
    self,
    images: UInt8[Array, "rows height width channels"],
    labels: Int32[Array, " rows"],
    resident: Mapping[str, Array],
    batch: Mapping[str, Array],
  ) -> dict[str, Array]:
    """Augments and normalises gathered images: see `Batches.prepare`."""
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

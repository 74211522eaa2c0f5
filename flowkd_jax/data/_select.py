"""Batches of a source, kept in device memory or streamed."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike

from flowkd_jax.data._augment import Augmentation
from flowkd_jax.data._batches import Batches
from flowkd_jax.data._memory_batches import MemoryBatches
from flowkd_jax.data._split import Source
from flowkd_jax.data._split import Split
from flowkd_jax.data._stream_batches import StreamBatches


def training_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  mean: Sequence[float],
  std: Sequence[float],
  augmentation: Augmentation | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> Batches:
  """Shuffled and augmented batches; the last one is padded and masked.

  Args:
    source: A `Split`, which is kept in device memory, or an opened source, which is
      streamed.
    batch_size: Number of rows in a step, over all processes.
    seed: Seed of the shuffle and of the augmentation.
    mean: Mean of each channel, in units of 0..255.
    std: Standard deviation of each channel, in units of 0..255.
    augmentation: Random changes of the images, none by default.
    process_index: Number of this process, in 0..process_count-1.
    process_count: Number of processes; each yields a contiguous part of every batch.

  Raises:
    ValueError: If a number is out of range.
  """
  kind = MemoryBatches if isinstance(source, Split) else StreamBatches
  return kind(
    source,  # pyright: ignore[reportArgumentType] (narrowed by the line above)
    batch_size=batch_size,
    seed=seed,
    mean=mean,
    std=std,
    augmentation=augmentation or Augmentation(),
    process_index=process_index,
    process_count=process_count,
  )


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  mean: Sequence[float],
  std: Sequence[float],
  dtype: DTypeLike = jnp.float32,
  process_index: int = 0,
  process_count: int = 1,
) -> Batches:
  """Batches without shuffling and augmentation; the last one is padded and masked.

  Args:
    source: A `Split`, which is kept in device memory, or an opened source, which is
      streamed.
    batch_size: Number of rows in a step, over all processes.
    mean: Mean of each channel, in units of 0..255.
    std: Standard deviation of each channel, in units of 0..255.
    dtype: Data type of the prepared images.
    process_index: Number of this process, in 0..process_count-1.
    process_count: Number of processes; each yields a contiguous part of every batch.

  Raises:
    ValueError: If a number is out of range.
  """
  kind = MemoryBatches if isinstance(source, Split) else StreamBatches
  return kind(
    source,  # pyright: ignore[reportArgumentType] (narrowed by the line above)
    batch_size=batch_size,
    seed=0,
    mean=mean,
    std=std,
    shuffle=False,
    dtype=dtype,
    process_index=process_index,
    process_count=process_count,
  )

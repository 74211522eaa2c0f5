"""Data of a job, opened and checked against its settings before any decoding.

Every error names the flag. Nothing is decoded, computed or written here.
"""

from collections.abc import Mapping
from typing import Any

import jax

from flowkd_jax import data
from flowkd_jax import parallel
from flowkd_jax.jobs import environment
from flowkd_jax.jobs import networks
from flowkd_jax.jobs.settings import MicroBatchSettings
from flowkd_jax.jobs.settings import Settings

__all__ = [
  "check_disjoint",
  "check_networks",
  "open_sources",
  "splits_of",
  "where",
]

# Arguments of `data.open_source` that its errors name, with their flags.
_FLAGS = {"name": "dataset", "image_size": "", "image_key": "", "label_key": ""}


def open_sources(settings: Settings) -> dict[str, data.Source]:
  """Open the splits for training, test and, if there is one, validation.

  Args:
    settings: The settings of the job.

  Returns:
    Sources by the name of the setting, such as `train_split`.

  Raises:
    ValueError: If data, batches and networks do not fit together. The message names the
      flag.
    FileNotFoundError: If the data set is not prepared.
  """
  splits = splits_of(settings)
  sources = {flag: _open(settings, flag, split) for flag, split in splits.items()}
  check_disjoint(settings, splits)
  name, size, of = settings.shared_by_devices
  parallel.check_batch_size(size, jax.device_count(), name=f"--{name}", of=of)
  _check_micro_batches(settings, size)
  for flag, source in sources.items():
    if source.num_examples < jax.local_device_count():
      raise ValueError(
        f"--{flag}: split {splits[flag]}: expected an image for each of the "
        f"{jax.local_device_count()} devices, got {source.num_examples}; use a larger "
        "split"
      )
  _check_images(settings, sources["train_split"])
  check_networks(settings, sources["train_split"].image_shape)
  return sources


def _check_micro_batches(settings, rows):
  if not isinstance(settings, MicroBatchSettings):
    return
  most = rows // jax.device_count()
  if settings.micro_batches > most:
    raise ValueError(
      f"--micro_batches: expected at most {most}, the rows that each device has of "
      f"--batch_size={rows}, got {settings.micro_batches}"
    )


def where(settings: Settings) -> dict[str, Any]:
  """Further arguments of `data.open_source` and `data.load`."""
  return {
    "data_dir": settings.data_dir,
    "image_size": settings.image_size,
    "image_key": settings.image_key,
    "label_key": settings.label_key,
  }


def splits_of(settings: Settings) -> dict[str, str]:
  """Splits by the name of their setting."""
  splits = {
    "train_split": settings.train_split,
    "test_split": settings.test_split,
    "validation_split": settings.validation_split,
  }
  return {flag: split for flag, split in splits.items() if split is not None}


def _open(settings: Settings, flag: str, split: str) -> data.Source:
  try:
    return data.open_source(settings.dataset, split, **where(settings))
  except ValueError as error:
    raise ValueError(_with_flag(error, flag)) from error


def _with_flag(error: ValueError, split_flag: str) -> str:
  """Replace the argument in a message by the flag."""
  argument, _, rest = str(error).partition(":")
  if argument in _FLAGS:
    return f"--{_FLAGS[argument] or argument}:{rest}"
  return str(error) if argument.startswith("--") else f"--{split_flag}: {error}"


def check_disjoint(settings: Settings, splits: Mapping[str, str]) -> None:
  """Raise ValueError if two splits share images."""
  flags = [*splits]
  for number, flag in enumerate(flags):
    for other in flags[:number]:
      shared = data.shared_examples(
        settings.dataset, splits[flag], splits[other], data_dir=settings.data_dir
      )
      if shared:
        raise ValueError(
          f"--{flag}: expected other images than those of --{other}={splits[other]}, "
          f"got {splits[flag]}, which shares {shared} of them"
        )


def _check_images(settings: Settings, training: data.Source) -> None:
  if settings.batch_size > training.num_examples:
    raise ValueError(
      f"--batch_size: expected at most the {training.num_examples} images of "
      f"--train_split={settings.train_split}, got {settings.batch_size}"
    )
  side = min(training.image_shape[:2])
  if settings.crop_padding >= side:
    raise ValueError(
      f"--crop_padding: expected less than the {side} pixels of the images, as crops "
      f"could miss the image otherwise, got {settings.crop_padding}"
    )
  channels = training.image_shape[-1]
  if settings.augmentation.needs_color and channels != 3:
    raise ValueError(
      "--color_jitter, --grayscale: expected images with 3 channels (red, green, "
      f"blue), got {channels} of --dataset={settings.dataset}; leave both flags away"
    )


def check_networks(settings: Settings, image_shape: tuple[int, ...]) -> None:
  """Trace the used networks on images of the data set.

  Args:
    settings: The settings; those with names like `teacher_network` hold networks.
    image_shape: Height, width and channels of the images.

  Raises:
    ValueError: If a network cannot be applied, lacks a tap, returns several outputs or
      is larger than the memory. The message names the flag.
  """
  limit = environment.device_bytes()
  for flag in settings.used_networks:
    name = getattr(settings, flag)
    try:
      size = networks.parameter_bytes(name, image_shape)
    except ValueError as error:
      raise ValueError(f"--{flag}: {error}") from error
    if limit is not None and size > limit:
      raise ValueError(
        f"--{flag}: expected a network that fits into the {limit / 2**30:.3g} GiB of a "
        f"device, got {name}, whose parameters take {size / 2**30:.3g} GiB"
      )

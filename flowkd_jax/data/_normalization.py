"""Means and standard deviations of the channels of data sets."""

from collections.abc import Callable

from flowkd_jax.data._split import Source
from flowkd_jax.data._split import channel_statistics

_KNOWN = {
  # The authors' values, in their units.
  "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
  "cifar100": ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
  "mnist": ((33.3,), (78.6,)),
  "digits": ((77.65,), (95.62,)),
}

# The mean of 4,096 images differs from the mean of all images by 1 or 2 of 255 units.
SAMPLE = 4096


def normalization(
  name: str,
  training: Source | None = None,
  *,
  examples: int | None = SAMPLE,
  progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation per channel, in units of 0..255.

  The values of CIFAR-10, CIFAR-100, MNIST and the digits are constants. For other data
  sets they are computed from the training images, or from a fixed random sample if
  there are many.

  Args:
    name: Data set, with or without a version ("cifar10:3.0.2").
    training: Training images of the data set, if its statistics are not known.
    examples: Maximum number of images to read; None for all.
    progress: Function that is called with (images done, images in all) now and then.

  Raises:
    ValueError: If the data set is not known and `training` is None, or if an image
      cannot be read. The message names the image.
  """
  known = known_normalization(name)
  if known is not None:
    return known
  if training is None:
    raise ValueError(
      f"normalization: expected one of {', '.join(_KNOWN)} or the training "
      f"images to compute it from, got {name!r} alone; pass training=load(...)"
    )
  return channel_statistics(training, examples=examples, progress=progress)


def known_normalization(
  name: str,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
  """Mean and standard deviation per channel of a known data set; None for others.

  Args:
    name: Data set, with or without a version ("cifar10:3.0.2").
  """
  return _KNOWN.get(name.split(":")[0])

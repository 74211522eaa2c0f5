"""Means and standard deviations of the channels of known data sets."""

from flowkd_jax.data._split import Source
from flowkd_jax.data._split import channel_statistics

_KNOWN = {
  # The authors' values, in their units.
  "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
  "cifar100": ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
  "mnist": ((33.3,), (78.6,)),
  "digits": ((77.65,), (95.62,)),
}


def normalization(
  name: str, training: Source | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation per channel, in units of 0..255.

  Args:
    name: data set, with or without a version ("cifar10:3.0.2").
    training: its training images, from which the numbers of an unknown data
      set are computed; a few thousand of them do.

  Raises:
    ValueError: the data set is not known and `training` is None.
  """
  known = _KNOWN.get(name.split(":")[0])
  if known is not None:
    return known
  if training is None:
    raise ValueError(
      f"normalization: expected one of {', '.join(_KNOWN)} or the training "
      f"images to compute it from, got {name!r} alone; pass training=load(...)"
    )
  return channel_statistics(training)

"""Loading a split by name."""

import dataclasses

import numpy as np

from flowkd_jax._checks import check_choice
from flowkd_jax._checks import check_positive
from flowkd_jax.data._digits import load_digits
from flowkd_jax.data._resize import fit_image
from flowkd_jax.data._split import Split


def load(
  name: str,
  split: str,
  *,
  image_size: int | None = None,
  limit: int | None = None,
) -> Split:
  """Loads the examples of a split into host memory.

  Args:
    name: "digits", the handwritten digits that ship with scikit-learn.
    split: "train" or "test".
    image_size: height and width of the images; None keeps what they have.
      Resizes the shorter side, then cuts out the centre.
    limit: keep the first `limit` examples only.

  Raises:
    ValueError: an argument is out of its range.
  """
  check_choice("name", name, ("digits",))
  for argument, value in (("image_size", image_size), ("limit", limit)):
    if value is not None:
      check_positive(argument, value)
  loaded = load_digits(split)
  images = loaded.images[:limit]
  if image_size is not None:
    images = np.stack([fit_image(image, image_size) for image in images])
  return dataclasses.replace(loaded, images=images, labels=loaded.labels[:limit])

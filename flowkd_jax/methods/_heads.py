"""Checks that networks, taps and heads fit the data, for `check` of a `Method`."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import capture

Images = Float[Array, "batch ..."] | jax.ShapeDtypeStruct
# `(images, num_classes)`: raises ValueError if something does not fit the data.
Check = Callable[[Images, int], None]


def row_shapes(
  model: capture.AnyModel,
  variables: capture.Variables | None,
  images: Images,
  *,
  taps: Sequence[str] = (),
) -> dict[str, tuple[int, ...]]:
  """Shapes of a row of the logits and taps of a network, without computing them.

  Args:
    model: The network.
    variables: Variables of the network; None for freshly initialised ones.
    images: An example batch, or its shape.
    taps: Taps that the method reads.

  Raises:
    ValueError: If the first axis of an output is not the batch.
  """
  images = jax.ShapeDtypeStruct(images.shape, images.dtype)
  shapes: Any = variables
  if shapes is None:
    shapes = jax.eval_shape(
      lambda key, images: capture.init(model, key, images), jax.random.key(0), images
    )
  return capture.row_shapes(model, shapes, images, taps=taps)


def num_logits(
  name: str,
  model: capture.AnyModel,
  variables: capture.Variables | None,
  images: Images,
) -> int:
  """Number of logits of a network.

  Args:
    name: Name of the network in the method, for messages.
    model: The network.
    variables: See `row_shapes`.
    images: See `row_shapes`.

  Raises:
    ValueError: If the logits of an image are not a vector.
  """
  shape = row_shapes(model, variables, images)["logits"]
  if len(shape) != 1:
    raise ValueError(
      f"{name}: expected logits of shape [batch, classes], got [batch, "
      f"{', '.join(map(str, shape))}]"
    )
  return shape[0]


def check_head(name: str, classes: int) -> None:
  """Raise ValueError for a head with one logit, whose softmax is always 1.

  Args:
    name: Name of the network, for the message.
    classes: Number of its logits.
  """
  if classes < 2:
    raise ValueError(
      f"{name}: expected two logits or more, got {classes}, whose softmax is 1 for "
      "every image; for a binary problem use two logits, one per class"
    )


def check_labels(
  name: str, classes: int, num_classes: int, *, exactly: bool = False
) -> None:
  """Raise ValueError if a network has fewer classes than the data.

  Args:
    name: Name of the network or option, for the message.
    classes: Number of classes of the network or option.
    num_classes: Number of classes of the data.
    exactly: True if more classes than the data has are an error too.
  """
  if classes < num_classes or (exactly and classes != num_classes):
    more = "" if exactly else " or more"
    raise ValueError(
      f"{name}: expected {num_classes}{more} classes, as the data has, got {classes}"
    )


def labels_fit(name: str, classes: int) -> Check:
  """Check for a method whose network has a known number of logits."""
  return lambda _, num_classes: check_labels(name, classes, num_classes)


def classifier_fits(
  name: str, model: capture.AnyModel, variables: capture.Variables | None
) -> Check:
  """Check for a method that trains a classifier on labels.

  Args:
    name: Name of the network, for messages.
    model: The network.
    variables: See `num_logits`.
  """

  def check(images, num_classes):
    classes = num_logits(name, model, variables, images)
    check_head(name, classes)
    check_labels(name, classes, num_classes)

  return check

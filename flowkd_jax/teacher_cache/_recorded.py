"""Placeholder for a teacher of any framework whose outputs were recorded."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from flowkd_jax.teacher_cache._teacher import Network

_TAP = "taps/"


class RecordedTeacher(nn.Module):
  """Placeholder for a teacher whose outputs were recorded.

  It returns zeros of the right shapes. A method uses the recorded outputs in its batch,
  and raises an error if there are none.

  Attributes:
    num_classes: Number of logits.
    tap_shapes: `(name, shape of a row)` of each tap, from input to output.
  """

  num_classes: int
  tap_shapes: tuple[tuple[str, tuple[int, ...]], ...]

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the taps."""
    return tuple(name for name, _ in self.tap_shapes)

  @nn.compact
  def __call__(self, images, *, train: bool = False, mask=None):
    """Return zeros as logits, and sow zeros as taps."""
    del train, mask
    for name, shape in self.tap_shapes:
      self.sow("intermediates", name, jnp.zeros((len(images), *shape)))
    return jnp.zeros((len(images), self.num_classes))


def recorded_teacher(description: Mapping[str, Any]) -> Network:
  """Make the placeholder from the description of a cache by `describe_cache`.

  Raises:
    ValueError: If the logits were not recorded.
  """
  if "logits" not in description["row_shapes"]:
    raise ValueError(
      'recorded outputs: expected "logits" among them, got '
      f"{', '.join(description['row_shapes']) or 'none'}; record the logits of the "
      "teacher too, even if only its taps are matched"
    )
  shapes = {name: tuple(shape) for name, shape in description["row_shapes"].items()}
  taps = tuple(
    (name.removeprefix(_TAP), shape)
    for name, shape in shapes.items()
    if name.startswith(_TAP)
  )
  return Network(RecordedTeacher(shapes["logits"][0], taps), {})

"""A frozen network that others learn from, and what it makes of a batch."""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax import capture

# Before the names of a teacher's outputs in a batch that brings them.
TEACHER = "teacher/"


class Network(NamedTuple):
  """A network to evaluate or keep: a model and its variables.

  The model is a Linen module, or what `capture.from_nnx`, `capture.from_equinox` or
  `capture.pooled` make of another.
  """

  model: capture.AnyModel
  variables: Mapping[str, Any]


class Teacher(NamedTuple):
  """A frozen network that a method learns from, and the taps that it reads of it."""

  network: Network
  taps: tuple[str, ...]


def teacher_outputs(
  teacher: Teacher,
  variables: Mapping[str, Any],
  images: Float[Array, "batch ..."],
  mask: Bool[Array, " batch"] | None = None,
) -> dict[str, Array]:
  """Outputs of a teacher that a batch may bring: "logits" and each "taps/TAP".

  With the mask that the student gets too, both read the same array, and what a first
  layer makes of it before its weights is computed once for networks alike.
  """
  logits, activations = capture.apply_with_taps(
    teacher.network.model, variables, images, taps=teacher.taps, mask=mask
  )
  capture.check_logits(teacher.network.model, logits)
  taps = {f"taps/{name}": activations[name] for name in teacher.taps}
  return {"logits": logits, **taps}

"""Frozen teachers and their outputs on a batch."""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax import capture

# Prefix of the names of teacher outputs in a batch.
TEACHER = "teacher/"


class Network(NamedTuple):
  """Network to evaluate or to keep: a model with its variables.

  The model is a Linen module, or a model made by `capture.from_nnx`,
  `capture.from_equinox` or `capture.pooled`.
  """

  model: capture.AnyModel
  variables: Mapping[str, Any]


class Teacher(NamedTuple):
  """Frozen teacher of a method, with the taps that the method reads."""

  network: Network
  taps: tuple[str, ...]


def teacher_outputs(
  teacher: Teacher,
  variables: Mapping[str, Any],
  images: Float[Array, "batch ..."],
  mask: Bool[Array, " batch"] | None = None,
) -> dict[str, Array]:
  """Outputs of a teacher: "logits" and "taps/TAP" for each tap.

  Pass the mask that the student gets. Both networks then read the same array, and XLA
  computes shared preprocessing of similar first layers only once.
  """
  logits, activations = capture.apply_with_taps(
    teacher.network.model, variables, images, taps=teacher.taps, mask=mask
  )
  capture.check_logits(teacher.network.model, logits)
  taps = {f"taps/{name}": activations[name] for name in teacher.taps}
  return {"logits": logits, **taps}

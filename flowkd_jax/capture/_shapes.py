"""Shapes of the outputs of a model, found without computing them."""

from collections.abc import Sequence

import jax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax.capture._apply import AnyModel
from flowkd_jax.capture._apply import adapt
from flowkd_jax.capture._apply import apply_with_taps
from flowkd_jax.capture._apply import check_logits
from flowkd_jax.capture._model import Variables

LOGITS = "logits"


def row_shapes(
  model: AnyModel,
  variables: Variables,
  images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct,
  *,
  taps: Sequence[str] = (),
) -> dict[str, tuple[int, ...]]:
  """Shapes of a row of the logits and of the taps, by name.

  The logits have the name "logits". Two batch sizes are compared to find outputs whose
  first axis is not the batch.

  Args:
    model: See `apply_with_taps`.
    variables: Variables of the model, or their shapes.
    images: Example batch, or its shape.
    taps: See `apply_with_taps`.

  Raises:
    ValueError: If the model has no such tap, or the first axis of an output is not the
      batch.
  """
  batch = images.shape[0]
  one, other = (
    _shapes(model, variables, (size, *images.shape[1:]), images.dtype, taps)
    for size in (batch, batch + 3)
  )
  for name, shape in one.items():
    if shape[:1] != (batch,) or other[name] != (batch + 3, *shape[1:]):
      what = "logits" if name == LOGITS else f"tap {name}"
      raise ValueError(
        f"model: the first axis of the {what} of {adapt(model).name} is not the batch: "
        f"{batch} images give shape {shape}, {batch + 3} images {other[name]}; move "
        "the axis of the batch to the front, or take another tap"
      )
  return {name: shape[1:] for name, shape in one.items()}


def _shapes(model, variables, image_shape, dtype, taps):
  def outputs(variables, images):
    logits, activations = apply_with_taps(model, variables, images, taps=taps)
    check_logits(model, logits)
    return {**activations, LOGITS: logits}

  images = jax.ShapeDtypeStruct(image_shape, dtype)
  return {
    name: x.shape for name, x in jax.eval_shape(outputs, variables, images).items()
  }

"""Application of a model of any framework, with collection of its activations."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Key

from flowkd_jax.capture import _cost
from flowkd_jax.capture import _logits
from flowkd_jax.capture import _model
from flowkd_jax.capture import _names
from flowkd_jax.capture import _tags
from flowkd_jax.capture._linen import Linen
from flowkd_jax.capture._model import Variables

AnyModel = nn.Module | _model.Model
_MEMBERS = ("name", "taps", "pool", "init", "apply")


def apply_with_taps(
  model: AnyModel,
  variables: Variables,
  images: Float[Array, "batch ..."],
  *,
  taps: Sequence[str] | None = None,
  train: bool = False,
  mask: Bool[Array, " batch"] | None = None,
  rngs: Mapping[str, Array] | None = None,
  mutable: Sequence[str] = (),
) -> tuple[Any, Any]:
  """Apply a model and return its output and the requested activations.

  Args:
    model: Linen module whose `__call__` takes the images and `train`, or a model made
      by `from_nnx` or `from_equinox`.
    variables: Variables of the model.
    images: Batch of images.
    taps: Names or patterns of taps, in the order of the result. None means `model.taps`
      if the model declares taps, otherwise all sown activations in the order of sowing.
    train: True if the model is in training mode; otherwise it is in evaluation mode.
    mask: Mask of valid rows; passed on to a Linen module that takes it.
    rngs: Random keys by name, such as "dropout", as in `model.apply`.
    mutable: Collections that the model may update, such as `batch_stats`.

  Returns:
    `(output, {tap: activation})`, or with `mutable`, as in `model.apply`,
    `((output, {tap: activation}), updated)`. `jax.jit` sorts the keys of a dictionary:
    look taps up by name, or restore their order.

  Raises:
    TypeError: If the model has another type, or `taps` is not a sequence of names.
    ValueError: If the model has no such tap. The message lists its taps.
  """
  if isinstance(mutable, str):
    mutable = (mutable,)
  adapted = adapt(model)
  wanted = _names.checked(adapted.taps if taps is None else taps)
  options = {"train": train, "mask": mask, "rngs": rngs, "mutable": mutable}
  if wanted is not None and not wanted:
    output, updated = adapted.apply(
      variables, images, is_wanted=_model.nothing_wanted, **options
    )
    output = _logits.chosen(adapted, output)
    found = {}
  else:
    (output, updated), sown, modules = _collect(
      adapted, variables, images, wanted, **options
    )
    found = sown if wanted is None else sown | modules
  names = tuple(found) if wanted is None else _names.expand(found, wanted)
  missing = [name for name in names if name not in found]
  if missing:
    offered = list_taps(model, variables, images)
    raise ValueError(_names.no_such_taps(adapted.name, missing, offered))
  result = output, {name: found[name] for name in names}
  return (result, updated) if mutable else result


def adapt(model: AnyModel) -> _model.Model:
  """Convert a Linen module to a `Model`; a `Model` is returned unchanged.

  Raises:
    TypeError: If the argument is neither a Linen module nor a `Model`.
  """
  if isinstance(model, nn.Module):
    return Linen(model, getattr(model, "taps", None))
  lacking = [name for name in _MEMBERS if not hasattr(model, name)]
  if not lacking:
    return model
  if "apply" not in lacking:
    raise TypeError(
      f"model: expected the members of capture.Model, {type(model).__name__} lacks "
      f"{', '.join(lacking)}"
    )
  raise TypeError(
    "model: expected a flax.linen.Module, or what capture.from_nnx(model) or "
    f"capture.from_equinox(model) return first, got a {type(model).__name__}"
  )


def _collect(adapted, variables, images, patterns, *, mask, rngs, **options):
  """Apply a model: `(result of apply, {name: sown tap}, {name: module output})`.

  `patterns` is None for all sown activations, or `...` for all taps.
  """

  def is_wanted(path, sown):
    if patterns is ...:
      return path != ""  # The output of the whole model is no tap.
    return sown if patterns is None else matches(path)

  def apply(variables, images, mask, rngs):
    output, updated = adapted.apply(
      variables, images, is_wanted=is_wanted, mask=mask, rngs=rngs, **options
    )
    return _logits.chosen(adapted, output), updated

  matches = _names.any_matches(patterns if isinstance(patterns, tuple) else ())
  output, found = _tags.harvest(apply, variables, images, mask, rngs)
  sown, modules = _names.named(found)
  return output, _pooled(adapted.pool, sown), _pooled(adapted.pool, modules)


def _pooled(pool, taps):
  if pool is None:
    return taps
  return {name: tap if tap.ndim < 3 else pool(tap) for name, tap in taps.items()}


def with_taps(model: AnyModel, taps: Sequence[str]) -> _model.Model:
  """Set the default taps of a model, by name or pattern.

  Raises:
    TypeError: If the model or `taps` has the wrong type; see `apply_with_taps`.
  """
  return _replaced(model, taps=_names.checked(taps))


def _replaced(model, **fields) -> _model.Model:
  """Replace fields of a model."""
  adapted: Any = adapt(model)
  try:
    return dataclasses.replace(adapted, **fields)
  except TypeError:
    raise TypeError(
      f"model: expected a dataclass with the field {', '.join(fields)}, got a "
      f"{type(adapted).__name__}"
    ) from None


def with_logits(model: AnyModel, logits: _logits.LogitsChoice) -> _model.Model:
  """Make a model with several outputs return its logits alone.

      teacher = capture.with_logits(model, 0)         # (logits, features)
      teacher = capture.with_logits(model, "logits")  # a dict or an object
      teacher = capture.with_logits(model, lambda output: output["heads"][1])

  Args:
    model: See `apply_with_taps`.
    logits: Position or name of the logits among the outputs, or a function from the
      outputs to the logits.

  Raises:
    TypeError: If the model has the wrong type (see `apply_with_taps`), or `logits` is
      not a position, a name or a function.
  """
  return _replaced(model, logits=_logits.chooser(logits))


def check_logits(model: AnyModel, output: Any) -> None:
  """Raise ValueError unless the output of a model is a single array.

  The message lists the outputs and shows how to choose the logits.

  Args:
    model: See `apply_with_taps`.
    output: Output of the model.
  """
  _logits.check_logits(adapt(model).name, output)


def pooled(model: AnyModel, pool: _model.Pool) -> _model.Model:
  """Make a model pool those of its taps that have positions.

  Args:
    model: See `apply_with_taps`.
    pool: Function such as `pooling.mean` that reduces tokens `[batch, tokens, dim]` or
      maps `[batch, height, width, channels]` to `[batch, dim]`. Taps without positions
      are not pooled.

  Raises:
    TypeError: If the model has the wrong type; see `apply_with_taps`.
  """
  return _replaced(model, pool=pool)


def check_evaluation(
  model: AnyModel,
  variables: Variables,
  images: Float[Array, "batch ..."],
  *,
  taps: Sequence[str] | None = None,
) -> None:
  """Check that a model is in evaluation mode, so that images do not affect one another.

  Some images are evaluated twice, at different positions among different images.
  BatchNorm with batch statistics, or dropout, would change their logits or taps.

  Args:
    model: See `apply_with_taps`.
    variables: Variables of the model.
    images: Four or more different images.
    taps: Taps that a method reads, as in `apply_with_taps`.

  Raises:
    ValueError: If the logits or a tap are computed in training mode; if the model lacks
      one of its declared or the requested taps; if it returns several outputs; or if
      there are fewer than four images.
  """
  half = images.shape[0] // 2
  if half < 2:
    raise ValueError(f"images: expected four or more, got {images.shape[0]}")
  adapted = adapt(model)
  first, second = images[:half], images[half : 2 * half]

  tap_shapes(model, variables, images)  # Raises if a declared tap does not exist.

  @jax.jit
  def outputs_of(variables, *parts):
    output, found = apply_with_taps(model, variables, jnp.concatenate(parts), taps=taps)
    check_logits(model, output)
    return output, found

  logits, found = outputs_of(variables, first, second)
  other_logits, other_found = outputs_of(variables, first, first)
  named = {"its logits": (logits, other_logits)}
  named |= {f"its tap {name}": (found[name], other_found[name]) for name in found}
  for what, (one, other) in named.items():
    if one.shape[:1] != (2 * half,):
      raise ValueError(
        f"model: the first axis of {what} of {adapted.name} is not the batch: "
        f"{2 * half} images give shape {one.shape}"
      )
    if not _same_rows(one, other, half):
      raise ValueError(
        f"model: {adapted.name} is not in evaluation mode: {what} of an image "
        "depend on the other images of the batch, or on chance; see that dropout and "
        "BatchNorm follow its mode, or set it in call="
      )


def _same_rows(one, other, half) -> bool:
  """Returns whether the first half of one equals the second half of the other."""
  # NaN becomes zero: values that are not finite in both say nothing about the mode.
  one, other = jnp.nan_to_num(one[:half]), jnp.nan_to_num(other[half:])
  return bool(jnp.allclose(one, other, rtol=1e-3, atol=1e-3 * jnp.abs(one).max()))


def init(
  model: AnyModel, key: Key[Array, ""], images: Float[Array, "batch ..."]
) -> dict[str, Any]:
  """Initial variables of a model, without intermediates.

  Linen modules get fresh variables. Initialisation is compiled, so that the outputs of
  the forward pass are not computed. NNX and Equinox modules return the variables that
  they were converted with.

  Args:
    model: See `apply_with_taps`.
    key: Random key of the initialisation.
    images: Example batch; only its shape and dtype matter.
  """
  return adapt(model).init(key, images)


def tap_shapes(
  model: AnyModel,
  variables: Variables,
  images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct,
  *,
  taps: Sequence[str] | None = None,
) -> dict[str, tuple[int, ...]]:
  """Shapes of taps, including the batch axis, without computing the taps.

  Args:
    model: See `apply_with_taps`.
    variables: Variables of the model, or their shapes.
    images: Example batch, or its shape.
    taps: See `apply_with_taps`.

  Raises:
    ValueError: If the model has no such tap.
  """
  # A list, because `jax.eval_shape` sorts the keys of a dictionary.
  names: list[str] = []

  def activations(variables, images):
    _, captured = apply_with_taps(model, variables, images, taps=taps)
    names.extend(captured)
    return list(captured.values())

  shapes = jax.eval_shape(activations, variables, images)
  return {name: x.shape for name, x in zip(names, shapes, strict=True)}


def list_taps(
  model: AnyModel,
  variables: Variables,
  images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct,
) -> list[_names.Tap]:
  """List all taps of a model, without computing them.

  Sown taps come first, then outputs of modules, both from input to output.

  Args:
    model: See `apply_with_taps`.
    variables: Variables of the model, or their shapes.
    images: Example batch, or its shape.
  """
  found: list[tuple[str, bool]] = []  # a list: tracing sorts the keys of a dictionary
  options = {"train": False, "mask": None, "rngs": None, "mutable": ()}

  def activations(variables, images):
    _, sown, modules = _collect(adapt(model), variables, images, ..., **options)
    found.extend((name, name in sown) for name in sown | modules)
    return [*sown.values(), *modules.values()]

  program, shapes = jax.make_jaxpr(activations, return_shape=True)(variables, images)
  costs = _cost.flops_of_outputs(program.jaxpr)
  return [
    _names.Tap(name, sown, x.shape, x.dtype, flops // images.shape[0])
    for (name, sown), x, flops in zip(found, shapes, costs, strict=True)
  ]

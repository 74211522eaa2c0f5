"""Applying a model, of whichever framework, and collecting its activations."""

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
  """Applies `model` and returns its output and the activations asked for.

  Args:
    model: a Linen module whose `__call__` takes the images and `train`, or what
      `from_nnx` or `from_equinox` made of another.
    variables: its variables.
    images: what it is applied to.
    taps: names or patterns wanted, in the order wanted: of what the model sows, or
      of its modules. None means `model.taps` if the model declares them, else
      everything sown, in the order of sowing.
    train: whether the model is in training; else it is in evaluation mode.
    mask: rows that are valid; passed on to a Linen module that takes it.
    rngs: keys for dropout and the like, as in `model.apply`.
    mutable: collections that the model may update, such as `batch_stats`.

  Returns:
    `(output, {tap: activation})`; with `mutable`, as in `model.apply`,
    `((output, {tap: activation}), updated)`. A dictionary that leaves `jax.jit` has
    sorted keys: look taps up by name, or state their order again.

  Raises:
    TypeError: if the model is none of those, or `taps` is no sequence of names.
    ValueError: if the model has no tap of such a name; lists those it has.
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
  """The model as a pure function that marks its activations.

  Raises:
    TypeError: if it is neither a Linen module nor such a function.
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
  """`(what apply returns, {name: what it sows}, {name: output of a module})`.

  `patterns` may be None for everything sown, or `...` for everything.
  """

  def is_wanted(path, sown):
    if patterns is ...:
      return path != ""  # The model itself is no tap: that is its output.
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
  """The same model, with names or patterns of the taps that it has by default.

  Raises:
    TypeError: as `apply_with_taps`.
  """
  return _replaced(model, taps=_names.checked(taps))


def _replaced(model, **fields) -> _model.Model:
  """The model with another field."""
  adapted: Any = adapt(model)
  try:
    return dataclasses.replace(adapted, **fields)
  except TypeError:
    raise TypeError(
      f"model: expected a dataclass with the field {', '.join(fields)}, got a "
      f"{type(adapted).__name__}"
    ) from None


def with_logits(model: AnyModel, logits: _logits.LogitsChoice) -> _model.Model:
  """The same model, which returns its logits alone instead of several outputs.

      teacher = capture.with_logits(model, 0)         # of (logits, features)
      teacher = capture.with_logits(model, "logits")  # of a dict or an object
      teacher = capture.with_logits(model, lambda output: output["heads"][1])

  Args:
    model: as in `apply_with_taps`.
    logits: position or name of the logits among the outputs, or a function of the
      outputs.

  Raises:
    TypeError: as `apply_with_taps`, or if `logits` is none of the three.
  """
  return _replaced(model, logits=_logits.chooser(logits))


def check_logits(model: AnyModel, output: Any) -> None:
  """Raises ValueError unless the output of a model is one array.

  The message names the outputs that were found and shows how to choose the logits.

  Args:
    model: as in `apply_with_taps`.
    output: what the model returned.
  """
  _logits.check_logits(adapt(model).name, output)


def pooled(model: AnyModel, pool: _model.Pool) -> _model.Model:
  """The same model, whose taps with positions are pooled.

  Args:
    model: as in `apply_with_taps`.
    pool: such as `pooling.mean`, of tokens `[batch, tokens, dim]`, maps `[batch,
      height, width, channels]` and the like to rows; what has no positions stays.

  Raises:
    TypeError: as `apply_with_taps`.
  """
  return _replaced(model, pool=pool)


def check_evaluation(
  model: AnyModel,
  variables: Variables,
  images: Float[Array, "batch ..."],
  *,
  taps: Sequence[str] | None = None,
) -> None:
  """Proves on images that the model treats each on its own, as in evaluation mode.

  Some of them are put in another place among others: BatchNorm that takes the
  statistics of the batch, or dropout, would change what the model makes of them. The
  logits and all taps that are asked for are compared.

  Args:
    model: as in `apply_with_taps`.
    variables: its variables.
    images: four images or more, not alike.
    taps: as in `apply_with_taps`: the taps that a method is to read.

  Raises:
    ValueError: if the model or a tap is in training mode, it lacks one of its declared
      taps or of those asked for, it returns several outputs, or there are too few
      images.
  """
  half = images.shape[0] // 2
  if half < 2:
    raise ValueError(f"images: expected four or more, got {images.shape[0]}")
  adapted = adapt(model)
  first, second = images[:half], images[half : 2 * half]

  tap_shapes(model, variables, images)  # Refuses taps that the model does not have.

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
  """Returns whether the first rows of one are the last rows of the other."""
  # Rows of zeros and not of NaN where a tap is not finite in both: that is no mode.
  one, other = jnp.nan_to_num(one[:half]), jnp.nan_to_num(other[half:])
  return bool(jnp.allclose(one, other, rtol=1e-3, atol=1e-3 * jnp.abs(one).max()))


def init(
  model: AnyModel, key: Key[Array, ""], images: Float[Array, "batch ..."]
) -> dict[str, Any]:
  """Variables of `model` to start from, without intermediates.

  Of a Linen module fresh ones; compiled, so that nothing of the forward pass is
  computed but the shapes. NNX and Equinox modules keep those that they came with.

  Args:
    model: as in `apply_with_taps`.
    key: randomness of the initialisation.
    images: an example; only its shape and dtype matter.
  """
  return adapt(model).init(key, images)


def tap_shapes(
  model: AnyModel,
  variables: Variables,
  images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct,
  *,
  taps: Sequence[str] | None = None,
) -> dict[str, tuple[int, ...]]:
  """Shapes of the activations, batch included, without computing anything.

  Args:
    model: as in `apply_with_taps`.
    variables: its variables, or their shapes.
    images: an example, or its shape.
    taps: as in `apply_with_taps`.

  Raises:
    ValueError: if the model has no tap of such a name.
  """
  # A list, because a dictionary would come back in another order.
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
  """Every tap of the model, without computing anything.

  First what it sows, then the outputs of its modules, each from input to output.

  Args:
    model: as in `apply_with_taps`.
    variables: its variables, or their shapes.
    images: an example, or its shape.
  """
  found: list[tuple[str, bool]] = []  # a dictionary would come back sorted
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

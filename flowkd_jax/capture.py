"""Intermediate activations of any Linen model that sows them.

A model sows into the collection `intermediates`; here that becomes a flat
dictionary. Names of nested modules are joined by "/"; a name sown several times
in one call (a module used twice) is numbered: "name/0", "name/1".

A dictionary that crosses `jax.jit` comes back sorted by name: index it by tap.
"""

import difflib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Key

Taps = dict[str, Array]
Variables = Mapping[str, Any]


def apply_with_taps(
  model: nn.Module,
  variables: Variables,
  images: Float[Array, "batch ..."],
  *,
  taps: Sequence[str] | None = None,
  train: bool = False,
  mask: Bool[Array, " batch"] | None = None,
  rngs: Mapping[str, Array] | None = None,
  mutable: Sequence[str] = (),
) -> tuple[Any, Any]:
  """Applies `model` and returns its output and the activations it sowed.

  Args:
    model: a Linen module whose `__call__` takes the images and `train`.
    variables: its variables.
    images: what it is applied to.
    taps: names wanted, in the order wanted. None means `model.taps` if the
      model declares them, else everything sown, in the order of sowing.
    train: passed on to the model.
    mask: rows that are valid; passed on to the model unless None.
    rngs: keys for dropout and the like, as in `model.apply`.
    mutable: collections that the model may update, such as `batch_stats`.

  Returns:
    `(output, {tap: activation})`; with `mutable`, as in `model.apply`,
    `((output, {tap: activation}), updated)`.

  Raises:
    ValueError: if the model did not sow one of the taps; lists what it did sow.
  """
  if isinstance(mutable, str):
    mutable = (mutable,)
  options: dict[str, Any] = {"train": train, "rngs": rngs}
  if mask is not None:
    options["mask"] = mask
  output, updated = model.apply(
    _without_intermediates(variables),
    images,
    mutable=[*mutable, "intermediates"],
    **options,
  )
  sown = _flat_names(updated.get("intermediates") or {})
  wanted = getattr(model, "taps", tuple(sown)) if taps is None else taps
  result = output, _select(sown, wanted, model)
  return (result, _without_intermediates(updated)) if mutable else result


def init(
  model: nn.Module, key: Key[Array, ""], images: Float[Array, "batch ..."]
) -> dict[str, Any]:
  """Fresh variables of `model`, without intermediates.

  Compiled, so that nothing of the forward pass is computed but the shapes.

  Args:
    model: a Linen module whose `__call__` takes the images and `train`.
    key: randomness of the initialisation.
    images: an example; only its shape and dtype matter.
  """

  def initialize(key, images):
    return _without_intermediates(model.init(key, images, train=False))

  return jax.jit(initialize)(key, images)


def tap_shapes(
  model: nn.Module,
  variables: Variables,
  images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct,
  *,
  taps: Sequence[str] | None = None,
) -> dict[str, tuple[int, ...]]:
  """Shapes of the activations, batch included, without computing anything.

  Args:
    model: a Linen module whose `__call__` takes the images and `train`.
    variables: its variables, or their shapes.
    images: an example, or its shape.
    taps: as in `apply_with_taps`.

  Raises:
    ValueError: if the model did not sow one of the taps.
  """
  # A list, because a dictionary would come back in another order.
  names: list[str] = []

  def activations(variables, images):
    _, captured = apply_with_taps(model, variables, images, taps=taps)
    names.extend(captured)
    return list(captured.values())

  shapes = jax.eval_shape(activations, variables, images)
  return {name: x.shape for name, x in zip(names, shapes, strict=True)}


def _without_intermediates(variables: Variables) -> dict[str, Any]:
  return {k: v for k, v in variables.items() if k != "intermediates"}


def _flat_names(intermediates: Mapping[str, Any]) -> Taps:
  sown: Taps = {}
  flat: dict[str, Any] = traverse_util.flatten_dict(dict(intermediates), sep="/")
  for name, value in flat.items():
    if not isinstance(value, tuple):  # sown with a reduce_fn of the model's own
      sown[name] = value
    elif len(value) == 1:
      sown[name] = value[0]
    else:
      sown |= {f"{name}/{i}": entry for i, entry in enumerate(value)}
  return sown


def _select(sown: Taps, taps: Sequence[str], model: nn.Module) -> Taps:
  missing = [name for name in taps if name not in sown]
  if missing:
    near = difflib.get_close_matches(missing[0], sown, n=3)
    suggestion = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
      f"taps: {type(model).__name__} did not sow {', '.join(missing)}; it "
      f"sowed {', '.join(sown) or 'nothing'}{suggestion} (inside nn.scan, sown "
      "values are dropped unless variable_axes names 'intermediates')"
    )
  return {name: sown[name] for name in taps}

"""Intermediate activations of any Linen model, by name.

A tap is an activation that the model sows into the collection `intermediates`, or the
output of one of its modules, so that a model needs no change to be distilled. Names
of nested modules are joined by "/": "encoder/block_3/attention". In a pattern "*" and
"?" stand for letters within one such part, "**" for any number of parts:
"encoder/block_*", "**/attention". What comes several times in one call (a module used
twice) is numbered: "name/0", "name/1".

A dictionary that crosses `jax.jit` comes back sorted by name: index it by tap.
"""

import difflib
import fnmatch
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
from flax import traverse_util
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Key

Taps = dict[str, Array]
Variables = Mapping[str, Any]
_CALL = "/__call__"


class Tap(NamedTuple):
  """An activation that a model offers.

  Attributes:
    name: What to ask for.
    sown: Whether the model sows it; else it is the output of a module.
    shape: Of the activation, batch included.
    dtype: Of the activation.
  """

  name: str
  sown: bool
  shape: tuple[int, ...]
  dtype: Any

  @property
  def width(self) -> int:
    """Entries of a row."""
    return math.prod(self.shape[1:])

  @property
  def row_bytes(self) -> int:
    """Memory that a row takes."""
    return self.width * self.dtype.itemsize

  @property
  def pair_flops(self) -> int:
    """Operations that a pairwise loss spends on the inner product of two rows."""
    return 2 * self.width


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
  """Applies `model` and returns its output and the activations asked for.

  Args:
    model: a Linen module whose `__call__` takes the images and `train`.
    variables: its variables.
    images: what it is applied to.
    taps: names or patterns wanted, in the order wanted: of what the model sows, or
      of its modules. None means `model.taps` if the model declares them, else
      everything sown, in the order of sowing.
    train: passed on to the model.
    mask: rows that are valid; passed on to the model unless None.
    rngs: keys for dropout and the like, as in `model.apply`.
    mutable: collections that the model may update, such as `batch_stats`.

  Returns:
    `(output, {tap: activation})`; with `mutable`, as in `model.apply`,
    `((output, {tap: activation}), updated)`.

  Raises:
    ValueError: if the model has no tap of such a name; lists those it has.
  """
  if isinstance(mutable, str):
    mutable = (mutable,)
  options: dict[str, Any] = {"train": train, "rngs": rngs}
  if mask is not None:
    options["mask"] = mask
  wanted = getattr(model, "taps", None) if taps is None else tuple(taps)

  def apply(captured, variables, images):
    return model.apply(
      variables,
      images,
      capture_intermediates=captured,
      mutable=[*mutable, "intermediates"],
      **options,
    )

  variables = _without_intermediates(variables)
  output, updated = apply(_modules_named(wanted or ()), variables, images)
  found = _flat_names(updated.get("intermediates") or {})
  names = tuple(found) if wanted is None else _expand(found, wanted)
  missing = [name for name in names if name not in found]
  if missing:
    offered = _offered(lambda *xs: apply(True, *xs), variables, images)
    raise ValueError(_no_such_taps(model, missing, offered))
  result = output, {name: found[name] for name in names}
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
  model: nn.Module,
  variables: Variables,
  images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct,
) -> list[Tap]:
  """Every tap of the model, without computing anything.

  First what it sows, then the outputs of its modules, each from input to output.

  Args:
    model: a Linen module whose `__call__` takes the images and `train`.
    variables: its variables, or their shapes.
    images: an example, or its shape.
  """

  def apply(variables, images):
    return model.apply(
      variables,
      images,
      train=False,
      capture_intermediates=True,
      mutable=["intermediates"],
    )

  return _offered(apply, _without_intermediates(variables), images)


def _offered(apply, variables, images) -> list[Tap]:
  """The taps, from an `apply` that captures every module."""
  found: list[tuple[str, bool]] = []  # a dictionary would come back sorted

  def activations(variables, images):
    _, updated = apply(variables, images)
    intermediates = updated.get("intermediates") or {}
    sown = _flat_names(intermediates, modules=False)
    named = sown | _flat_names(intermediates)
    found.extend((name, name in sown) for name in named)
    return list(named.values())

  shapes = jax.eval_shape(activations, variables, images)
  return [
    Tap(name, sown, x.shape, x.dtype)
    for (name, sown), x in zip(found, shapes, strict=True)
  ]


def _modules_named(patterns: Iterable[str]) -> Any:
  """A filter of modules for `capture_intermediates`."""
  split = [pattern.split("/") for pattern in patterns]

  def is_named(module, method):
    parts = list(module.path)
    return method == "__call__" and any(_matches(parts, each) for each in split)

  return is_named


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
  if not pattern or not parts:
    return not parts and all(part == "**" for part in pattern)
  if pattern[0] == "**":
    return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
  return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _expand(found: Mapping[str, Any], wanted: Sequence[str]) -> tuple[str, ...]:
  """Names in place of patterns; what matches nothing stays as it is."""
  names: dict[str, None] = {}
  for pattern in wanted:
    parts = pattern.split("/")
    matching = [name for name in found if _matches(name.split("/"), parts)]
    exact = pattern in found
    names |= dict.fromkeys([pattern] if exact or not matching else matching)
  return tuple(names)


def _without_intermediates(variables: Variables) -> dict[str, Any]:
  return {k: v for k, v in variables.items() if k != "intermediates"}


def _flat_names(intermediates: Mapping[str, Any], *, modules: bool = True) -> Taps:
  """Activations by name; what is sown goes before a module of the same name."""
  flat: dict[str, Any] = traverse_util.flatten_dict(dict(intermediates), sep="/")
  sown = {name: value for name, value in flat.items() if not _is_module(name)}
  named: Taps = {}
  for name, value in flat.items():
    if not _is_module(name):
      named |= _numbered(name, value)
    elif modules and name.removesuffix(_CALL) not in sown and name != _CALL[1:]:
      named |= _numbered(name.removesuffix(_CALL), value)
  return named


def _is_module(name: str) -> bool:
  return f"/{name}".endswith(_CALL)


def _numbered(name: str, value: Any) -> Taps:
  """The arrays of what came under one name, numbered if there are several."""
  leaves = jax.tree.leaves(value)
  if len(leaves) == 1:
    return {name: leaves[0]}
  return {f"{name}/{number}": leaf for number, leaf in enumerate(leaves)}


def _no_such_taps(
  model: nn.Module, missing: Sequence[str], offered: Sequence[Tap]
) -> str:
  sown, modules = (
    [tap.name for tap in offered if tap.sown is x] for x in (True, False)
  )
  near = difflib.get_close_matches(missing[0], [*sown, *modules], n=3)
  suggestion = f"; did you mean {' or '.join(near)}?" if near else ""
  return (
    f"taps: {type(model).__name__} has no {', '.join(missing)}; it sows "
    f"{', '.join(sown) or 'nothing'} and has the modules "
    f"{', '.join(modules) or 'none'}{suggestion} (inside nn.scan, activations are "
    "dropped unless variable_axes names 'intermediates')"
  )

"""Adapter of Equinox modules, which process one example at a time."""

import dataclasses
import functools
import types
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax

from flowkd_jax._numerics import finite_weights
from flowkd_jax.capture import _arrays
from flowkd_jax.capture import _names
from flowkd_jax.capture import _tags
from flowkd_jax.capture._model import Pool
from flowkd_jax.capture._model import Variables


@dataclasses.dataclass(frozen=True, eq=False)
class EquinoxModel:
  """Equinox module as a pure function of its arrays; a `Model`."""

  name: str
  taps: tuple[str, ...] | None
  static: Any
  layouts: Mapping[str, _arrays.Layout]
  call: Callable[..., Any]
  initial: Variables
  pool: Pool | None = None
  logits: Callable[[Any], Any] | None = None
  paths: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)

  def __post_init__(self):
    if self.taps and self.paths is not None:  # Equinox modules cannot sow.
      _names.check_paths(self.name, self.taps, self.paths)

  def init(self, key, images):
    """Variables that the module was converted with."""
    del key, images
    return dict(self.initial)

  def apply(self, variables, images, *, is_wanted, train, mask, rngs, mutable):
    """Apply the module, as in `Model`; the mask is not passed on."""
    del mask, mutable
    module = eqx.nn.inference_mode(self.module(variables), value=not train)
    module = _marked(module, (), is_wanted)
    key = None
    if train and rngs:
      (key,) = (jax.random.split(each, images.shape[0]) for each in rngs.values())
    if "state" not in self.layouts:
      return jax.vmap(functools.partial(self.call, module))(images, key), {}
    if train:
      raise ValueError(
        f"train: expected False, as {self.name} has a state, and Equinox modules with "
        "a state are supported in evaluation mode only; got True"
      )
    output, _ = jax.vmap(
      functools.partial(self.call, module), in_axes=(0, None, None), out_axes=(0, None)
    )(images, self.layouts["state"].tree(variables["state"]), key)
    return output, {}

  def module(self, variables: Variables) -> eqx.Module:
    """A new Equinox module with these variables, without its state."""
    return eqx.combine(self.layouts["params"].tree(variables["params"]), self.static)


def from_equinox(
  model: eqx.Module,
  *,
  state: eqx.nn.State | None = None,
  call: Callable[..., Any] | None = None,
  taps: Sequence[str] | None = None,
) -> tuple[EquinoxModel, Variables]:
  """Convert an Equinox module to a model and its variables.

  Every function that takes a Linen module and its variables takes the result.
  `equinox.nn.inference_mode` sets evaluation and training mode.

  Args:
    model: The module, with its weights.
    state: State of the module, for example of BatchNorm. Modules with a state can be
      teachers but cannot be trained here.
    call: Function `(module, image, key) -> logits` of one image `[height, width,
      channels]`; with a state, `(module, image, state, key) -> (logits, state)`. In
      evaluation `key` is None. By default the module is called as `module(image,
      key=key)` or `module(image, state, key=key)`. Use `call` to transpose images for a
      module that expects channels first.
    taps: Names or patterns of default taps, such as "blocks/*".

  Returns:
    `(model, variables)`, with variables such as `{"params": {"blocks/0/weight": ...}}`.

  Raises:
    TypeError: If `model` is not an Equinox module.
    ValueError: If the module has no such taps, or a weight is NaN or infinite.
  """
  if not isinstance(model, eqx.Module):
    raise TypeError(
      f"model: expected an equinox.Module, got a {type(model).__name__}; Linen modules "
      "need no from_equinox, NNX modules have from_nnx"
    )
  params, static = eqx.partition(model, eqx.is_inexact_array)
  flat = {"params": _arrays.by_path(params)}
  if state is not None:
    flat["state"] = _arrays.by_path(state)
  variables = {name: arrays for name, (arrays, _) in flat.items()}
  finite_weights.check_finite("model", finite_weights.by_path(variables))
  adapted = EquinoxModel(
    name=type(model).__name__,
    taps=_names.checked(taps),
    static=static,
    layouts={name: layout for name, (_, layout) in flat.items()},
    call=call or (_call if state is None else _call_with_state),
    initial=variables,
    paths=tuple(_paths(model)),
  )
  return adapted, variables


def _paths(model: eqx.Module) -> list[str]:
  """Paths of all callable modules inside a model."""
  paths: list[str] = []

  def record(path: str, sown: bool) -> bool:
    del sown
    paths.append(path)
    return False

  _marked(model, (), record)
  return paths


def _call(module, image, key):
  return module(image, key=key)


def _call_with_state(module, image, state, key):
  return module(image, state, key=key)


def _marked(module: Any, path: tuple[str, ...], is_wanted) -> Any:
  """Give a module and its submodules classes that mark their outputs."""

  def is_inner(leaf):
    return isinstance(leaf, eqx.Module) and leaf is not module

  leaves, structure = jax.tree_util.tree_flatten_with_path(module, is_leaf=is_inner)
  module = structure.unflatten(
    [
      _marked(leaf, (*path, *map(_part, keys)), is_wanted) if is_inner(leaf) else leaf
      for keys, leaf in leaves
    ]
  )
  name = "/".join(path)
  if not path or not callable(module) or not is_wanted(name, False):
    return module
  return _of_class(module, _marking(type(module), name))


def _part(key) -> str:
  return jax.tree_util.keystr((key,), simple=True)


def _of_class(module: Any, kind: type[eqx.Module]) -> eqx.Module:
  new = object.__new__(kind)
  for name, value in vars(module).items():
    object.__setattr__(new, name, value)
  return new


# Cached: the class is part of the tree structure, so a new class each time would make
# `jit` compile again and `scan` see different structures.
@functools.cache
def _marking(kind: type[eqx.Module], name: str) -> type[eqx.Module]:
  """Subclass of a module's class that marks the output at one place of a model."""

  def __call__(self, *arguments, **options):  # noqa: N807
    output = kind.__call__(self, *arguments, **options)
    if isinstance(output, tuple) and isinstance(output[-1], eqx.nn.State):
      return _tags.tag(output[:-1], name) + output[-1:]
    return _tags.tag(output, name)

  members = {"__call__": __call__, "__module__": kind.__module__}
  return types.new_class(kind.__name__, (kind,), {}, lambda body: body.update(members))

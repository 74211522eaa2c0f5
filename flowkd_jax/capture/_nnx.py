"""Adapter of Flax NNX modules."""

import dataclasses
import functools
import types
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from flowkd_jax._numerics import finite_weights
from flowkd_jax.capture import _arrays
from flowkd_jax.capture import _names
from flowkd_jax.capture import _sowing
from flowkd_jax.capture import _statistics
from flowkd_jax.capture import _tags
from flowkd_jax.capture._model import Pool
from flowkd_jax.capture._model import Variables

_COLLECTIONS = {"params": nnx.Param, "batch_stats": nnx.BatchStat, "other": ...}


@dataclasses.dataclass(frozen=True, eq=False)
class NNXModel:
  """NNX module as a pure function of its arrays; a `Model`."""

  name: str
  taps: tuple[str, ...] | None
  graph: Any
  layouts: Mapping[str, _arrays.Layout]
  rng_state: Any
  call: Callable[[nnx.Module, Array], Any]
  initial: Variables
  pool: Pool | None = None
  logits: Callable[[Any], Any] | None = None
  # Paths of the modules if the model sows nothing, so that all other names are wrong.
  paths: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)

  def __post_init__(self):
    if self.taps and self.paths is not None:
      _names.check_paths(self.name, self.taps, self.paths)

  def init(self, key, images):
    """Variables that the module was converted with."""
    del key, images
    return dict(self.initial)

  def apply(self, variables, images, *, is_wanted, train, mask, rngs, mutable):
    """Apply the module, as in `Model`; the mask is not passed on."""
    del mask
    module = self._merged(variables, self._rngs(train, rngs))
    _mark(module, is_wanted)
    module.train() if train else module.eval()
    output = self.call(module, images)
    return output, {
      collection: _arrays.by_path(nnx.state(module, _COLLECTIONS[collection]))[0]
      for collection in mutable
    }

  def module(self, variables: Variables) -> nnx.Module:
    """A new NNX module with these variables, in the mode that the first one had."""
    return self._merged(variables, self.rng_state)

  def _merged(self, variables, rng_state):
    states = [
      layout.tree(variables[collection]) for collection, layout in self.layouts.items()
    ]
    return nnx.merge(self.graph, *states, rng_state)

  def _rngs(self, train, rngs):
    """Random state of this call. Made anew, as NNX variables belong to one trace."""
    leaves, structure = jax.tree.flatten(self.rng_state)
    if train and leaves:
      if not rngs:
        raise ValueError(
          f"rngs: expected a key such as {{'dropout': jax.random.key(0)}}, as "
          f"{self.name} draws random numbers in training; got none"
        )
      (key,) = rngs.values()
      leaves = [
        jax.random.fold_in(key, number)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros_like(leaf)
        for number, leaf in enumerate(leaves)
      ]
    return structure.unflatten(leaves)


def from_nnx(
  model: nnx.Module,
  *,
  call: Callable[[nnx.Module, Array], Any] | None = None,
  taps: Sequence[str] | None = None,
) -> tuple[NNXModel, Variables]:
  """Convert an NNX module to a model and its variables.

  Every function that takes a Linen module and its variables takes the result. The
  module's own `eval()` and `train()` set evaluation and training mode, on a copy: the
  module itself never changes.

  Args:
    model: The module, with its weights.
    call: Function `(module, images) -> logits`; by default `module(images)`. Use it to
      pass further arguments to the module, such as `deterministic`.
    taps: Names or patterns of default taps; None for all sown activations.

  Returns:
    `(model, variables)`, with variables such as `{"params": {"blocks/0/kernel": ...}}`.

  Raises:
    TypeError: If `model` is not an NNX module.
    ValueError: If a weight is NaN or infinite, or the module has no such taps. Sown
      activations are known only when the module is applied; if a module sows,
      `check_evaluation` finds wrong names.
  """
  if not isinstance(model, nnx.Module):
    raise TypeError(
      f"model: expected a flax.nnx.Module, got a {type(model).__name__}; Linen modules "
      "need no from_nnx, Equinox modules have from_equinox"
    )
  filters = [*_COLLECTIONS.values()]
  graph, rng_state, *states = nnx.split(model, nnx.RngState, *filters)
  flat = {
    collection: _arrays.by_path(state)
    for collection, state in zip(_COLLECTIONS, states, strict=True)
  }
  flat = {name: found for name, found in flat.items() if found[0] or name == "params"}
  variables = {name: arrays for name, (arrays, _) in flat.items()}
  finite_weights.check_finite("model", finite_weights.by_path(variables))
  adapted = NNXModel(
    name=type(model).__name__,
    taps=_names.checked(taps),
    graph=graph,
    layouts={name: layout for name, (_, layout) in flat.items()},
    rng_state=rng_state,
    call=call or (lambda module, images: module(images)),
    initial=variables,
    paths=_paths(model, call),
  )
  return adapted, variables


def _paths(model: nnx.Module, call: Callable | None) -> tuple[str, ...] | None:
  """Paths of the modules inside a model; None if the model may sow taps."""
  modules = list(nnx.iter_modules(model))
  functions = () if call is None else (call,)
  if _sowing.may_sow((type(module) for _, module in modules), nnx.Module, functions):
    return None
  return tuple(
    "/".join(map(str, path)) for path, module in modules if path and callable(module)
  )


def _mark(model: nnx.Module, is_wanted) -> None:
  for path, module in list(nnx.iter_modules(model)):
    name = "/".join(map(str, path))
    wanted = bool(path) and callable(module) and is_wanted(name, False)
    object.__setattr__(module, "__class__", _marking(type(module), name, wanted))


# Cached: the class is part of the graph definition, so a new class each time would make
# `jit` compile again and `scan` see different structures.
@functools.cache
def _marking(kind: type[nnx.Module], name: str, wanted: bool) -> type[nnx.Module]:
  """Subclass that marks sown values and the output at one place of a model."""

  def __call__(self, *arguments, **options):  # noqa: N807
    if isinstance(self, nnx.BatchNorm) and not _statistics.running_averages(
      self, arguments, options
    ):
      _statistics.check_axis(self, name, self.axis_name)
    output = kind.__call__(self, *arguments, **options)
    return _tags.tag(output, name) if wanted else output

  def sow(self, variable_type, sown, value, *arguments, **options):
    if isinstance(variable_type, str):
      variable_type = nnx.variable_type_from_name(variable_type, allow_register=True)
    if not issubclass(variable_type, nnx.Intermediate):
      return kind.sow(self, variable_type, sown, value, *arguments, **options)
    _tags.tag(value, f"{name}/{sown}" if name else sown, sown=True)
    return True

  members: dict[str, Any] = {"sow": sow, "__module__": kind.__module__}
  if wanted or issubclass(kind, nnx.BatchNorm):
    members["__call__"] = __call__
  return types.new_class(kind.__name__, (kind,), {}, lambda body: body.update(members))

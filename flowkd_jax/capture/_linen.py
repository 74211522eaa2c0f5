"""Adapter of Flax Linen modules."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer

from flowkd_jax.capture import _statistics
from flowkd_jax.capture import _tags
from flowkd_jax.capture._model import IsWanted
from flowkd_jax.capture._model import Pool


@dataclasses.dataclass(frozen=True)
class Linen:
  """Linen module whose `__call__` takes the images and `train`; a `Model`."""

  module: nn.Module
  taps: tuple[str, ...] | None
  pool: Pool | None = None
  logits: Callable[[Any], Any] | None = None

  @property
  def name(self) -> str:
    """Class name of the module."""
    return type(self.module).__name__

  def init(self, key, images):
    """Fresh variables. Compiled, so that the outputs are not computed."""
    # Under an outer `jit`, even a constant is a tracer.
    traced = isinstance(jnp.zeros(()), Tracer)
    try:
      hash(self.module)
    except TypeError:  # A field such as a list or an array: no cache, compile again.
      return jax.jit(lambda *arguments: _initialize(self.module, *arguments))(
        key, images
      )
    return _initializer(alone=not traced)(self.module, key, images)

  def apply(self, variables, images, *, is_wanted, train, mask, rngs, mutable):
    """Apply the module, as in `Model`."""
    options: dict[str, Any] = {"train": train, "rngs": rngs}
    if mask is not None and self._takes("mask"):
      options["mask"] = mask
    checks = [nn.intercept_methods(_statistics.check_linen)] if train else []
    with contextlib.ExitStack() as stack:
      for interceptor in (*checks, nn.intercept_methods(_Marking(is_wanted))):
        stack.enter_context(interceptor)
      output, updated = self.module.apply(
        without_intermediates(variables),
        images,
        # Some modules compute what they sow only if the collection is mutable.
        mutable=[*mutable, "intermediates"],
        **options,
      )
    return output, without_intermediates(updated)

  def _takes(self, name: str) -> bool:
    parameters = inspect.signature(self.module.__call__).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def without_intermediates(variables) -> dict[str, Any]:
  """Variables without the collection of sown values."""
  return {k: v for k, v in variables.items() if k != "intermediates"}


def _initialize(module: nn.Module, key, images) -> dict[str, Any]:
  return without_intermediates(module.init(key, images, train=False))


@functools.cache
def _initializer(alone: bool) -> Callable[..., dict[str, Any]]:
  """`_initialize`, compiled once for equal modules.

  Args:
    alone: True if the call is outside any other compiled function. Inside one, JAX does
      not allow compiler options.
  """
  options = {}
  fast = jax.config.read("jax_disable_most_optimizations")
  if alone and not fast and jax.default_backend() == "cpu":
    # Initialisation runs only once. With all optimizations, XLA for CPUs takes eight
    # times as long to compile it, longer than a training step; the variables are equal.
    options = {"xla_backend_optimization_level": 1}
  return jax.jit(_initialize, static_argnums=0, compiler_options=options)


class _Marking:
  """Interceptor that marks outputs of modules and sown values.

  Two kinds of nested calls at the same path need care. A lifted transformation
  (`nn.scan`, `nn.remat`) calls a copy of the module; the copy's output is marked, as it
  is the output of a layer. A module that calls the method of its base class is a single
  module; only the outer output is marked.
  """

  def __init__(self, is_wanted: IsWanted):
    self._is_wanted = is_wanted
    self._active: dict[tuple[str, ...], list[nn.Module]] = {}
    self._marked: set[int] = set()

  def __call__(self, call, arguments, options, context):
    module, path = context.module, context.module.path
    object.__setattr__(module, "sow", functools.partial(self._sow, module))
    name = "/".join(path)
    if context.method_name != "__call__" or not self._is_wanted(name, False):
      return call(*arguments, **options)
    active = self._active.setdefault(path, [])
    if any(module is other for other in active):
      return call(*arguments, **options)
    self._marked.discard(id(module))
    active.append(module)
    try:
      output = call(*arguments, **options)
    finally:
      active.pop()
    for other in active:
      self._marked.add(id(other))
    return output if id(module) in self._marked else _tags.tag(output, name)

  def _sow(self, module, collection, name, value, *arguments, **options):
    path = "/".join((*module.path, name))
    if collection == "intermediates" and self._is_wanted(path, True):
      value = _tags.tag(value, path, sown=True)
    return type(module).sow(module, collection, name, value, *arguments, **options)

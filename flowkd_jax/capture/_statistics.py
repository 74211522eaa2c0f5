"""Check for BatchNorm layers that use the statistics of a single device."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import flax.linen as nn

_UNCHECKED = ""  # means no check; no axis has this name
_AXIS: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "axis of the batch", default=_UNCHECKED
)


@contextlib.contextmanager
def statistics_over(axis_name: str | None) -> Iterator[None]:
  """Context that refuses BatchNorm layers without statistics of the whole batch.

  In this context, a training step for several devices is traced. Applying a Linen or
  NNX model in training mode then raises ValueError if a BatchNorm layer normalises by
  the batch and its `axis_name` is not the axis over which the batch is split.

  Args:
    axis_name: Name of the mapped axis over which the batch is split. None if the step
      gets the whole batch; then no layer may have an `axis_name`.
  """
  token = _AXIS.set(axis_name)
  try:
    yield
  finally:
    _AXIS.reset(token)


def check_axis(layer: Any, path: str, axis_name: str | None) -> None:
  """Raise ValueError if a layer's statistics do not span all devices.

  Args:
    layer: A layer that normalises by the batch.
    path: Path of the layer in the model.
    axis_name: Axis over which the layer averages.
  """
  expected = _AXIS.get()
  if expected == _UNCHECKED or axis_name == expected:
    return
  if expected is None:
    raise ValueError(
      f"model: {type(layer).__name__} at {path or 'the top'}: expected axis_name=None, "
      f"as the step gets the whole batch (mode 'jit'), got {axis_name!r}. Make the "
      "network and its method with axis_name=None"
    )
  raise ValueError(
    f"model: {type(layer).__name__} at {path or 'the top'} normalises by the rows of "
    f"one device: expected axis_name={expected!r}, got {axis_name!r}. Give the layer "
    f"(or the network it is in) axis_name={expected!r}, use running averages, or train "
    "on one device"
  )


def check_linen(call, arguments, options, context):
  """Check each called layer; an interceptor for `nn.intercept_methods`."""
  module = context.module
  if context.method_name == "__call__" and _uses_batch(module, arguments, options):
    check_axis(module, "/".join(module.path), module.axis_name)
  return call(*arguments, **options)


def _uses_batch(module, arguments, options) -> bool:
  if isinstance(module, nn.BatchNorm):
    return not running_averages(module, arguments, options)
  # Other classes of BatchNorm, such as `models.BatchNorm`, are found by their state.
  own = module.variables.get("batch_stats", {}) if hasattr(module, "axis_name") else {}
  of_layer = any(not hasattr(value, "keys") for value in own.values())
  return of_layer and bool(options.get("train"))


def running_averages(module: Any, arguments: Any, options: Any) -> bool:
  """Returns whether a call of Flax's BatchNorm uses running averages."""
  given = options.get("use_running_average", next(iter(arguments[1:]), None))
  return bool(module.use_running_average if given is None else given)

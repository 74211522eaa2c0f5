"""Search for BatchNorm layers whose statistics are those of one device."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import flax.linen as nn

_UNCHECKED = ""  # no axis has this name
_AXIS: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "axis of the batch", default=_UNCHECKED
)


@contextlib.contextmanager
def statistics_over(axis_name: str | None) -> Iterator[None]:
  """Refuses layers that would not take the statistics of all rows.

  While a step for several devices is traced in this context, applying a Linen or NNX
  model in training raises ValueError if a BatchNorm layer normalises by the batch and
  does not bear the name of the axis that the batch is split over.

  Args:
    axis_name: Mapped axis over which the batch is split; None if the step gets the
      whole batch, so that no layer may name an axis.
  """
  token = _AXIS.set(axis_name)
  try:
    yield
  finally:
    _AXIS.reset(token)


def check_axis(layer: Any, path: str, axis_name: str | None) -> None:
  """Raises ValueError if a layer in training mode does not span the devices.

  Args:
    layer: The layer, which normalises by the batch.
    path: Place in the model.
    axis_name: The axis that it averages over.
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
  """Interceptor for `nn.intercept_methods` that checks every layer called."""
  module = context.module
  if context.method_name == "__call__" and _uses_batch(module, arguments, options):
    check_axis(module, "/".join(module.path), module.axis_name)
  return call(*arguments, **options)


def _uses_batch(module, arguments, options) -> bool:
  if isinstance(module, nn.BatchNorm):
    return not running_averages(module, arguments, options)
  # Layers like it, such as `models.BatchNorm`, have statistics of their own.
  own = module.variables.get("batch_stats", {}) if hasattr(module, "axis_name") else {}
  of_layer = any(not hasattr(value, "keys") for value in own.values())
  return of_layer and bool(options.get("train"))


def running_averages(module: Any, arguments: Any, options: Any) -> bool:
  """Returns whether a BatchNorm of Flax, called like this, uses running averages."""
  given = options.get("use_running_average", next(iter(arguments[1:]), None))
  return bool(module.use_running_average if given is None else given)

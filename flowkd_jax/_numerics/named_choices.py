"""Choices by name, with an optional parameter after a colon: `von_mises_fisher:8`."""

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

import jax.numpy as jnp

Choice = TypeVar("Choice")


def from_text(
  what: str, text: str, factories: Mapping[str, Callable[..., Choice]]
) -> Choice:
  """The choice for a text of the form `NAME` or `NAME:NUMBER`.

  Args:
    what: Name of the argument or flag in the message.
    text: Name of a factory, optionally with a colon and its argument, a number above 0.
    factories: Functions that make the choices, by name.

  Raises:
    ValueError: If the name is unknown or the number is out of its range.
  """
  name, colon, number = text.partition(":")
  if name not in factories:
    raise ValueError(f"{what}: expected one of {listed(factories)}, got {text!r}")
  if not colon:
    return factories[name]()
  parameter = _parameter(factories[name])
  if parameter is None:
    raise ValueError(f"{what}: expected {name}, which has no parameter, got {text!r}")
  value = _number(number)
  if value is None:
    raise ValueError(
      f"{what}: expected {name}:{parameter.upper()}, the {parameter} a number above 0 "
      f"and finite in float32, got {text!r}"
    )
  return factories[name](value)


def listed(factories: Mapping[str, Callable[..., Any]]) -> str:
  """All choices for a message, each with its parameter if it has one."""
  names = []
  for name, factory in factories.items():
    parameter = _parameter(factory)
    names.append(name if parameter is None else f"{name}[:{parameter.upper()}]")
  return ", ".join(names)


def _parameter(factory) -> str | None:
  """Name of the argument of a factory, or None if it has no argument."""
  return next(iter(inspect.signature(factory).parameters), None)


def _number(text: str) -> float | None:
  try:
    value = float(text)
  except ValueError:
    return None
  limits = jnp.finfo(jnp.float32)
  return value if float(limits.tiny) <= value <= float(limits.max) else None

"""Absl flags of a configuration, one for each field of a dataclass."""

import dataclasses
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from flowkd_jax.jobs import fields

__all__ = [
  "define_flags",
  "flag_kinds",
  "given_flags",
  "with_new_names",
]


def define_flags(config_class: type, values: flags.FlagValues) -> None:
  """Define one flag for each field of the dataclass."""
  kinds = flag_kinds(config_class)
  for field in dataclasses.fields(config_class):
    define = {
      bool: flags.DEFINE_boolean,
      int: flags.DEFINE_integer,
      float: flags.DEFINE_float,
      str: flags.DEFINE_string,
      tuple: flags.DEFINE_list,
    }[kinds[field.name]]
    default = field.default
    if isinstance(default, tuple):
      default = list(default)
    define(field.name, default, field.metadata["help"], flag_values=values)


def given_flags(config_class: type, values: flags.FlagValues) -> dict[str, Any]:
  """Values of the flags that the user gave, by field."""
  given = {
    field.name: values[field.name].value
    for field in dataclasses.fields(config_class)
    if values[field.name].present
  }
  return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def flag_kinds(config_class: type) -> dict[str, type]:
  """Type of each flag; `int | None` is of type int, `tuple[str, ...]` of type tuple."""
  hints = typing.get_type_hints(config_class)
  return {
    field.name: _plain_type(hints[field.name])
    for field in dataclasses.fields(config_class)
  }


def _plain_type(hint: Any) -> type:
  if isinstance(hint, types.UnionType):
    hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
  return typing.get_origin(hint) or hint


def with_new_names(arguments: Sequence[str], config_class: type) -> list[str]:
  """Replace flag names of version 0.1 by their new names.

  A warning is printed for each old name.

  Args:
    arguments: Arguments of the command line.
    config_class: The configuration whose flags they are.
  """
  names = {field.name for field in dataclasses.fields(config_class)}
  renamed = {old: new for old, new in fields.RENAMED.items() if new in names}
  renamed |= {f"no{old}": f"no{new}" for old, new in renamed.items()}
  result = []
  for argument in arguments:
    dashes = argument[: len(argument) - len(argument.lstrip("-"))]
    old, equals, value = argument.removeprefix(dashes).partition("=")
    if dashes and old in renamed:
      print(
        f"warning: --{old} is called --{renamed[old]} now; version 0.3 removes the old "
        "name",
        file=sys.stderr,
        flush=True,
      )
      argument = f"{dashes}{renamed[old]}{equals}{value}"
    result.append(argument)
  return result

"""Help text of a command: flags in groups, with choices, defaults and presets."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from rich import console as rich_console
from rich import text as rich_text

from flowkd_jax.cli import groups
from flowkd_jax.cli import parsing
from flowkd_jax.jobs import places

__all__ = [
  "ASKS",
  "Presets",
  "is_asked",
  "show",
]

# Presets of a command: settings by name, for each flag value that selects them.
Presets = Mapping[str, Mapping[str, Any]]

ASKS = ("-h", "-help", "--help", "--helpshort", "--helpfull")
_WIDEST = 100  # columns; longer lines are hard to read
_VALUES = {int: "INTEGER", float: "NUMBER", str: "TEXT", tuple: "A,B,..."}
_PLACES = {
  places.FILE: "FILE",
  places.NEW_FILE: "FILE",
  places.FOLDER: "DIR",
  places.NEW_FOLDER: "DIR",
  places.PERHAPS_FOLDER: "DIR",
}
_PRESETS = (
  'A preset ("With --dataset=...") replaces the default, also if that data set is '
  "itself the default. A flag that you give replaces both."
)
_GENERAL = """\
  --help, -h
      Print this text.
  --verbosity=-1
      Log warnings and errors only."""


def is_asked(arguments: Sequence[str]) -> bool:
  """Returns whether a flag asks for help."""
  return any(argument.partition("=")[0] in ASKS for argument in arguments)


def show(
  program: str,
  description: str | None,
  config_classes: Sequence[type],
  *,
  presets: Presets | None = None,
  positional: str | None = None,
) -> None:
  """Print the help text, wrapped to the terminal; without styles in a file or pipe.

  Args:
    program: The command as the user types it.
    description: Docstring of the module that runs the command.
    config_classes: Dataclasses whose fields are `setting`s, one flag each.
    presets: Settings that a flag such as "--dataset=digits" changes.
    positional: The setting that takes arguments without dashes, if any.
  """
  console = rich_console.Console(highlight=False)
  console.width = min(console.width, _WIDEST)
  fields = [field for each in config_classes for field in dataclasses.fields(each)]
  kinds = {
    name: kind
    for each in config_classes
    for name, kind in parsing.flag_kinds(each).items()
  }
  console.print(
    rich_text.Text(_usage(program, fields, kinds, positional, console.width))
  )
  if description:
    console.print(rich_text.Text(f"\n{_refilled(description, console.width)}"))
  if presets:
    console.print(rich_text.Text(f"\n{_filled(_PRESETS, console.width)}"))
  for title, members in groups.grouped(fields).items():
    console.print(rich_text.Text(f"\n{title}", style="bold underline"))
    for field in members:
      flag = _written(field, kinds[field.name])
      console.print(rich_text.Text(f"  {flag}", style="bold"))
      text = _paragraph(field, presets or {})
      console.print(rich_text.Text(_filled(text, console.width, " " * 6)))
  console.print(rich_text.Text("\nGeneral", style="bold underline"))
  console.print(rich_text.Text(_GENERAL))


def _usage(program, fields, kinds, positional, width) -> str:
  required = [
    f"--{field.name}={_value(field, kinds[field.name])}"
    for field in fields
    if field.metadata["required"] and field.name != positional
  ]
  places_of = [f"{positional.upper().removesuffix('S')} ..."] if positional else []
  words = [program, *places_of, *required, "[--flag=value", "...]"]
  return _filled(" ".join(words), width, "usage: ", " " * 7)


def _written(field: dataclasses.Field, kind: type) -> str:
  """Flag as the user types it."""
  if kind is bool:
    return f"--{field.name}, --no{field.name}"
  return f"--{field.name}={_value(field, kind)}"


def _value(field: dataclasses.Field, kind: type) -> str:
  place = _PLACES.get(field.metadata["limits"].place)
  if place and kind is tuple:
    return f"{place},{place},..."
  return place or _VALUES[kind]


def _paragraph(field: dataclasses.Field, presets: Presets) -> str:
  """Help text of a flag, with its choices, default and presets."""
  parts = [field.metadata["help"]]
  choices = field.metadata["limits"].choices
  if choices:
    parts.append(f"Choices: {', '.join(choices)}.")
  default = _shown(field.default)
  if field.metadata["required"]:
    parts.append("Required.")
  elif default:
    parts.append(f"Default: {default}.")
  for flag, settings in presets.items():
    if field.name in settings:
      parts.append(f"With {flag}: {_shown(settings[field.name])}.")
  return " ".join(parts)


def _shown(value: Any) -> str:
  """Value as the user types it; empty for None."""
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, tuple):
    return ",".join(map(str, value))
  return "" if value is None else str(value)


def _filled(text: str, width: int, indent: str = "", hanging: str | None = None) -> str:
  """Wrap a paragraph to a width; words are never split."""
  return textwrap.fill(
    text,
    max(width, len(indent) + 20),
    initial_indent=indent,
    subsequent_indent=indent if hanging is None else hanging,
    break_long_words=False,
    break_on_hyphens=False,
  )


def _refilled(docstring: str, width: int) -> str:
  """Wrap a docstring to a width.

  Paragraphs are wrapped. List entries (two spaces, a word, its explanation) are wrapped
  with the explanation indented. Commands (four spaces) stay as they are.
  """
  blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
  return "\n\n".join(_refilled_block(block, width) for block in blocks)


def _refilled_block(block: str, width: int) -> str:
  if block.startswith("    "):
    return block
  if not block.startswith("  "):
    return _filled(" ".join(block.split()), width)
  lines = []
  for entry in re.split(r"\n(?=  \S)", block):
    text = re.sub(r"^ *\S+ *", "", entry)
    name = entry.removesuffix(text)
    lines.append(_filled(" ".join(text.split()), width, name, " " * len(name)))
  return "\n".join(lines)

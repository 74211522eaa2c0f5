"""The only place that knows command-line flags.

An experiment is a dataclass of settings and a function; its flags are the fields, and
nothing below this file reads a flag.
"""

import dataclasses
import logging
import sys
import types
import typing
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from absl import app
from absl import flags
from absl import logging as absl_logging

from flowkd_jax import train
from flowkd_jax.cli import hosts
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places

# Whatever else is raised is a fault of the program, and shown with its traceback.
_EXPECTED = (
  train.Interrupted,
  KeyboardInterrupt,
  train.NonFiniteError,
  MemoryError,
  ValueError,
  OSError,
)


def launch(
  config_class: type,
  configure: Callable[..., Any],
  run: Callable[[Any], None],
  *,
  several_hosts: bool = False,
  arguments: Sequence[str] | None = None,
) -> None:
  """Parses the command line into a configuration and runs the experiment.

  Exit status: 0 when done or stopped by SIGTERM with everything saved, 1 when the
  training failed, 2 when a flag or a file cannot be right, 130 after Ctrl-C.

  Args:
    config_class: A dataclass whose fields are `setting`s: one flag each.
    configure: Gets the flags that the user gave, as keywords, and returns the
      configuration.
    run: Gets the configuration. ValueError and OSError from it or from `configure`
      are shown as messages to the user.
    several_hosts: Whether it may run in several processes that train together; then
      there are flags for that too.
    arguments: The flags; by default those of the command line.
  """
  define_flags(config_class, flags.FLAGS)
  if several_hosts:
    hosts.define_flags(flags.FLAGS)
  # "Unable to initialize backend 'tpu'" frightens, and means nothing.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

  def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
      _say(f"error: expected flags only, got {' '.join(arguments[1:])}")
      sys.exit(2)
    if flags.FLAGS.verbosity < 0:  # Libraries set the level themselves.
      absl_logging.get_absl_handler().addFilter(
        lambda record: record.levelno >= logging.WARNING
      )
    train.keep_freed_memory()
    config = None
    try:
      if several_hosts:
        hosts.connect(flags.FLAGS)
      config = configure(**given_flags(config_class, flags.FLAGS))
      run(config)
    except _EXPECTED as error:
      sys.exit(_exit_status(error, getattr(config, "workdir", "")))

  given = sys.argv[1:] if arguments is None else arguments
  argv = [sys.argv[0], *_by_new_names(given, config_class)]
  app.run(main, argv, flags_parser=_parse)


def _by_new_names(arguments: Sequence[str], config_class: type) -> list[str]:
  """The arguments with flags of version 0.1 by the names that they have now."""
  names = {field.name for field in dataclasses.fields(config_class)}
  renamed = {old: new for old, new in fields.RENAMED.items() if new in names}
  renamed |= {f"no{old}": f"no{new}" for old, new in renamed.items()}
  result = []
  for argument in arguments:
    dashes = argument[: len(argument) - len(argument.lstrip("-"))]
    old, equals, value = argument.removeprefix(dashes).partition("=")
    if dashes and old in renamed:
      _say(
        f"warning: --{old} is called --{renamed[old]} now; the old name goes away with "
        "version 0.3"
      )
      argument = f"{dashes}{renamed[old]}{equals}{value}"
    result.append(argument)
  return result


def _exit_status(error: BaseException, workdir: str) -> int:
  """Says what happened in one sentence; returns the exit status."""
  if isinstance(error, train.Interrupted):
    _say(f"{error}. Run the same command again to go on.")
    return 0 if error.signal_name == "SIGTERM" else 130
  if isinstance(error, KeyboardInterrupt):
    _say("Interrupted before anything was trained.")
    return 130
  text = places.message(error, workdir)
  if isinstance(error, MemoryError):
    text = f"not enough memory: {text}"
  _say(f"error: {text}")
  return 1 if isinstance(error, train.NonFiniteError | MemoryError) else 2


def _parse(arguments: Sequence[str]) -> list[str]:
  """Parses the command line; a flag that cannot be parsed is refused as any other."""
  try:
    return flags.FLAGS(arguments)
  except flags.Error as error:
    _say(f"error: {error}")
    sys.exit(2)


def define_flags(config_class: type, values: flags.FlagValues) -> None:
  """Defines one flag per field of the dataclass."""
  hints = typing.get_type_hints(config_class)
  for field in dataclasses.fields(config_class):
    define = {
      bool: flags.DEFINE_boolean,
      int: flags.DEFINE_integer,
      float: flags.DEFINE_float,
      str: flags.DEFINE_string,
      tuple: flags.DEFINE_list,
    }[_plain_type(hints[field.name])]
    default = field.default
    if isinstance(default, tuple):
      default = list(default)
    define(field.name, default, field.metadata["help"], flag_values=values)
    # `--help` shows the flags of the main module: these are its own.
    values.register_key_flag_for_module(sys.argv[0], values[field.name])


def given_flags(config_class: type, values: flags.FlagValues) -> dict[str, Any]:
  """The flags that stood on the command line, by field."""
  given = {
    field.name: values[field.name].value
    for field in dataclasses.fields(config_class)
    if values[field.name].present
  }
  return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _plain_type(hint: Any) -> type:
  """`int | None` is a flag of type int, `tuple[str, ...]` one of type tuple."""
  if isinstance(hint, types.UnionType):
    hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
  return typing.get_origin(hint) or hint


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)

"""Launcher of a command: flags become a configuration, errors an exit status.

A command consists of a dataclass of settings and a function. The fields of the
dataclass are its flags. No module below `flowkd_jax.cli` reads a flag.
"""

import logging
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from absl import app
from absl import flags
from absl import logging as absl_logging
from absl.logging import converter

from flowkd_jax import train
from flowkd_jax.cli import compilation
from flowkd_jax.cli import flag_help
from flowkd_jax.cli import hosts
from flowkd_jax.cli import parsing
from flowkd_jax.jobs import places

__all__ = [
  "launch",
]

# Any other exception is a bug of the program and is shown with its traceback.
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
  program: str = "",
  presets: flag_help.Presets | None = None,
  positional: str | None = None,
  several_hosts: bool = False,
  compiles: bool = False,
  arguments: Sequence[str] | None = None,
) -> None:
  """Parse the command line into a configuration and run the command.

  Exit status: 0 if the command succeeded, after help, and after SIGTERM with everything
  saved; 1 if training failed; 2 if a flag or a file is wrong; 130 after Ctrl-C.

  Args:
    config_class: Dataclass whose fields are `setting`s, one flag each.
    configure: Function from the flags that the user gave, as keyword arguments, to the
      configuration.
    run: Function that takes the configuration. ValueError and OSError of `run` and
      `configure` are shown as messages to the user.
    program: The command as the user types it; by default `python -m` and the main
      module.
    presets: Settings that a flag such as "--dataset=digits" changes, for `--help`.
    positional: The setting, a tuple, that takes arguments without dashes.
    several_hosts: True if several processes can train together. If so, the command has
      flags for that.
    compiles: True if the command compiles programs that are worth keeping. If so, the
      command has a flag that names their folder.
    arguments: The arguments; by default those of the command line.
  """
  given = sys.argv[1:] if arguments is None else arguments
  flag_classes = [config_class]
  flag_classes += [hosts.Config] if several_hosts else []
  flag_classes += [compilation.Config] if compiles else []
  if flag_help.is_asked(given):
    flag_help.show(
      program or _main_program(),
      sys.modules[run.__module__].__doc__,
      flag_classes,
      presets=presets,
      positional=positional,
    )
    return
  for each in flag_classes:
    parsing.define_flags(each, flags.FLAGS)
  flags.FLAGS.set_gnu_getopt(True)  # flags may follow arguments without dashes
  # Hides "Unable to initialize backend 'tpu'", which is no fault but looks like one.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)

  def main(arguments: Sequence[str]) -> None:
    _quieten(flags.FLAGS.verbosity)
    train.keep_freed_memory()
    config = None
    try:
      settings = parsing.given_flags(config_class, flags.FLAGS)
      settings |= _by_position(arguments[1:], positional, settings)
      if compiles:
        compilation.use_folder(flags.FLAGS)
      if several_hosts:
        hosts.connect(flags.FLAGS)
      config = configure(**settings)
      run(config)
    except _EXPECTED as error:
      sys.exit(_exit_status(error, getattr(config, "workdir", "")))

  argv = [sys.argv[0], *parsing.with_new_names(given, config_class)]
  app.run(main, argv, flags_parser=_parse)


def _quieten(verbosity: int) -> None:
  """Keeps messages below the level of `--verbosity` out of the log.

  Libraries set the level of their loggers themselves, so the handler decides.
  """
  least = converter.absl_to_standard(verbosity)
  absl_logging.get_absl_handler().addFilter(lambda record: record.levelno >= least)


def _main_program() -> str:
  """Command that started this process, as `python -m MODULE`."""
  spec = sys.modules["__main__"].__spec__
  return f"python -m {spec.name}" if spec else f"python {sys.argv[0]}"


def _by_position(
  values: Sequence[str], name: str | None, given: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
  """Setting made from arguments without dashes, if there are any.

  Raises:
    ValueError: If no setting takes such arguments, or its flag is given too.
  """
  if not values:
    return {}
  if name is None:
    raise ValueError(f"expected flags only, got {' '.join(values)}")
  if name in given:
    raise ValueError(f"--{name}: expected the flag or {' '.join(values)}, got both")
  return {name: tuple(values)}


def _exit_status(error: BaseException, workdir: str) -> int:
  """Print one sentence about an error; return the exit status."""
  if isinstance(error, train.Interrupted):
    _say(f"{error}. Run the same command again to resume.")
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
  """Parse the command line; print an error and exit if a flag cannot be parsed."""
  try:
    left = flags.FLAGS(arguments)
  except flags.Error as error:
    unknown = isinstance(error, flags.UnrecognizedFlagError)
    _say(f"error: {error}{'; --help lists the flags' if unknown else ''}")
    sys.exit(2)
  if flags.FLAGS["verbosity"].using_default_value:
    # Otherwise absl would raise it to INFO, and a log would begin with lines of other
    # libraries.
    flags.FLAGS.verbosity = absl_logging.WARNING
  return left


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)

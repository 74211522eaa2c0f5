"""Settings: dataclass fields with a help text and limits of their values."""

import dataclasses
import logging
import os
import typing
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

from flowkd_jax.jobs import limits

__all__ = [
  "RENAMED",
  "ConfigT",
  "configured",
  "setting",
  "with_new_names",
]

ConfigT = TypeVar("ConfigT")
_LOG = logging.getLogger(__name__)

# Names of version 0.1 and their new names. Version 0.2 accepts flags with the old
# names, with a warning. Work directories of version 0.1 stay readable.
RENAMED = {
  "auxiliary_weights": "auxiliary_checkpoint",
  "initial_weight": "flow_weight_init",
  "normalize_weights": "normalize_flow_weights",
  "telemetry": "diagnostics",
  "weight_decay_per_epoch": "flow_weight_gamma",
}


def setting(
  default: Any,
  help_text: str,
  *,
  required: bool = False,
  stages: Sequence[str] = (),
  **kwargs: Any,
) -> Any:
  """Dataclass field with the help text of its flag and the limits of its values.

  Args:
    default: Value if the flag is not given.
    help_text: Text that `--help` shows. It must be understandable alone, because flags
      are shown in another order than they are written. `--help` adds choices and
      default.
    required: True if `--help` marks the flag as required. The function `configure` of
      the job checks that it is given.
    stages: Stages on which the setting has an effect; empty for all.
    **kwargs: Fields of `limits.Limits`.
  """
  metadata = {
    "help": help_text,
    "required": required,
    "stages": tuple(stages),
    "limits": limits.Limits(**kwargs),
  }
  return dataclasses.field(default=default, metadata=metadata)


def configured(config_class: type[ConfigT], *layers: Mapping[str, Any]) -> ConfigT:
  """Make a configuration from layers of settings; later layers override earlier ones.

  A path that begins with ~ is in the home directory, as in a shell. A setting of the
  user that has no effect on the stages to run is logged as a warning. It is not an
  error, because a job may be repeated with fewer stages.

  Args:
    config_class: Dataclass whose fields are `setting`s.
    *layers: Settings by name, such as a preset of a data set. The last are the user's.

  Raises:
    ValueError: If a setting is outside its limits. The message names the flag.
  """
  values = {name: value for layer in layers for name, value in layer.items()}
  hints = typing.get_type_hints(config_class)
  for field in dataclasses.fields(typing.cast("Any", config_class)):
    value = values.get(field.name)
    if value and hints[field.name] == tuple[int, ...]:
      values[field.name] = _integers(field.name, value)
    elif value and field.metadata["limits"].place:
      values[field.name] = _in_home(value)
  config = config_class(**values)
  limits.check(config)
  for name in layers[-1] if layers else ():
    _warn_without_effect(config, name)
  return config


def _warn_without_effect(config: Any, name: str) -> None:
  """Logs a warning if no stage to run reads the setting."""
  readers = type(config).__dataclass_fields__[name].metadata["stages"]
  if not readers or {*readers} & {*config.stages}:
    return
  _LOG.warning(
    "--%s has no effect with --stages=%s, as it is for the stage%s %s",
    name,
    ",".join(config.stages),
    "" if len(readers) == 1 else "s",
    ", ".join(readers),
  )


def _integers(name: str, words: Sequence[Any]) -> tuple[int, ...]:
  try:
    return tuple(int(word) for word in words)
  except ValueError:
    raise ValueError(
      f"--{name}: expected whole numbers, separated by commas, got {','.join(words)}"
    ) from None


def _in_home(paths: Any) -> Any:
  if isinstance(paths, tuple):
    return tuple(map(os.path.expanduser, paths))
  return os.path.expanduser(paths)


def with_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Rename the settings of an earlier run to their present names."""
  return {RENAMED.get(name, name): value for name, value in settings.items()}

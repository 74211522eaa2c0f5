"""Flags from dataclass fields."""

import dataclasses

import pytest
from absl import flags

from flowkd_jax.cli import parsing
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import flow_settings


@dataclasses.dataclass(frozen=True)
class _Config:
  name: str = fields.setting("a", "A name.")
  folder: str | None = fields.setting(None, "A folder.")
  count: int = fields.setting(3, "A count.")
  rate: float = fields.setting(0.5, "A rate.")
  loud: bool = fields.setting(False, "Loudness.")
  parts: tuple[str, ...] = fields.setting(("x", "y"), "Parts.")


def _given(*arguments):
  values = flags.FlagValues()
  parsing.define_flags(_Config, values)
  values(["program", *arguments])
  return parsing.given_flags(_Config, values)


def test_only_flags_on_the_command_line_are_given():
  assert _given() == {}
  given = _given("--count=5", "--loud", "--parts=u,v", "--folder=f", "--rate=1e-3")
  assert given == {
    "count": 5,
    "loud": True,
    "parts": ("u", "v"),
    "folder": "f",
    "rate": 1e-3,
  }
  assert _Config(**given).name == "a"


def test_wrong_types_and_unknown_flags_are_refused():
  with pytest.raises(flags.IllegalFlagValueError, match="count"):
    _given("--count=many")
  with pytest.raises(flags.UnrecognizedFlagError, match="colour"):
    _given("--colour=red")


def test_flags_carry_their_help_and_default():
  values = flags.FlagValues()
  parsing.define_flags(_Config, values)
  assert values["rate"].help == "A rate."
  assert values["rate"].default == 0.5


@pytest.mark.parametrize(
  ("given", "expected", "warned"),
  [
    (["--telemetry"], ["--diagnostics"], "--telemetry is called --diagnostics"),
    (["--notelemetry"], ["--nodiagnostics"], "--notelemetry is called"),
    (["--initial_weight=2"], ["--flow_weight_init=2"], "--initial_weight is called"),
    (["-initial_weight", "2"], ["-flow_weight_init", "2"], "is called"),
    (["--seed=1", "initial_weight"], ["--seed=1", "initial_weight"], ""),
  ],
)
def test_old_names_of_flags_work_with_a_warning(given, expected, warned, capsys):
  config_class = flow_settings.Config
  assert parsing.with_new_names(given, config_class) == expected
  error = capsys.readouterr().err
  assert warned in error
  assert bool(error) == bool(warned)

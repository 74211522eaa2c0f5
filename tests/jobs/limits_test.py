"""Refusals that every launcher makes of every flag: numbers, lists, words, paths."""

import dataclasses
import math
import os
import typing

import pytest
from absl import flags

from flowkd_jax.cli import parsing
from flowkd_jax.jobs import limits
from flowkd_jax.jobs import places
from tests.cli import launchers

# Flags without which nothing is refused but their absence.
NEEDED = {
  "benchmarks.teacher_cache": {"cache": "."},
  "jobs.report_page": {"workdirs": (".",)},
}
NOT_FINITE = ("nan", "inf", "-inf", "1e400", "1e39")


def _fields(kinds):
  """`(launcher, name of the field)` of all fields whose type is one of those."""
  found = []
  for launcher in launchers.LAUNCHERS:
    config_class = launchers.load(launcher).Config
    hints = typing.get_type_hints(config_class)
    found += [
      (launcher, field.name)
      for field in dataclasses.fields(config_class)
      if {hints[field.name], *typing.get_args(hints[field.name])} & set(kinds)
    ]
  return found


def _field(launcher, name):
  config_class = launchers.load(launcher).Config
  (field,) = [each for each in dataclasses.fields(config_class) if each.name == name]
  return field


def _configure(launcher, arguments):
  """The configuration that a command line gives."""
  module = launchers.load(launcher)
  values = flags.FlagValues()
  parsing.define_flags(module.Config, values)
  values(["program", *arguments])
  given = parsing.given_flags(module.Config, values)
  base = {"workdir": "work"} if hasattr(module.Config, "seed") else {}
  known = {field.name for field in dataclasses.fields(module.Config)}
  base = {name: value for name, value in base.items() if name in known}
  return module.configure(**{**base, **NEEDED.get(launcher, {}), **given})


def test_every_launcher_is_tried():
  assert {"jobs.information_flow", "jobs.taps", "studies.run"} <= {*launchers.LAUNCHERS}
  assert len(launchers.LAUNCHERS) >= 17


@pytest.mark.parametrize(("launcher", "name"), _fields([int, float]))
def test_every_number_has_a_limit(launcher, name):
  found = _field(launcher, name).metadata["limits"]
  assert found.least is not None or found.above is not None


@pytest.mark.parametrize(("launcher", "name"), _fields([float]))
def test_numbers_that_are_not_finite_are_refused(launcher, name):
  for text in NOT_FINITE:
    with pytest.raises(ValueError, match=f"--{name}: expected .*, got "):
      _configure(launcher, [f"--{name}={text}"])


@pytest.mark.parametrize(("launcher", "name"), _fields([int, float]))
def test_numbers_below_the_least_are_refused(launcher, name):
  for text in ("-1", "-99999999999999999999999"):
    with pytest.raises(ValueError, match=f"--{name}: expected .*, got -"):
      _configure(launcher, [f"--{name}={text}"])


@pytest.mark.parametrize(("launcher", "name"), _fields([int]))
def test_integers_that_jax_cannot_count_are_refused(launcher, name):
  with pytest.raises(ValueError, match=f"--{name}: expected "):
    _configure(launcher, [f"--{name}={2**31}"])


@pytest.mark.parametrize(
  ("launcher", "name"), _fields([tuple[str, ...], tuple[int, ...]])
)
def test_lists_with_empty_or_repeated_entries_are_refused(launcher, name):
  for text in (",", "a,,b", " , "):
    with pytest.raises(ValueError, match=f"--{name}: expected "):
      _configure(launcher, [f"--{name}={text}"])
  with pytest.raises(ValueError, match=f"--{name}: expected each value once, got 5"):
    _configure(launcher, [f"--{name}=5,5"])


def _never_empty():
  return [
    (launcher, name)
    for launcher, name in _fields([str, tuple[str, ...], tuple[int, ...]])
    if not _field(launcher, name).metadata["limits"].may_be_empty
    and _field(launcher, name).default not in ("", ())
  ]


@pytest.mark.parametrize(("launcher", "name"), _never_empty())
def test_empty_values_without_a_meaning_are_refused(launcher, name):
  with pytest.raises(ValueError, match=f"--{name}: expected "):
    _configure(launcher, [f"--{name}="])


def _places(*kinds):
  return [
    (launcher, name)
    for launcher, name in _fields([str, tuple[str, ...]])
    if _field(launcher, name).metadata["limits"].place in kinds
  ]


@pytest.mark.parametrize(("launcher", "name"), _places(*places.KINDS))
def test_paths_that_cannot_be_are_refused(launcher, name, tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
  refused = [tmp_path / "file" / "sub", "x" * 300, "x/" * 4000, tmp_path / "nowhere"]
  for path in refused:
    with pytest.raises(ValueError, match=f"--{name}: expected a (file|folder) to "):
      _configure(launcher, [f"--{name}={path}"])


@pytest.mark.parametrize(
  ("launcher", "name"), _places(places.NEW_FOLDER, places.FOLDER, places.PERHAPS_FOLDER)
)
def test_files_in_place_of_folders_are_refused(launcher, name, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=f"--{name}: expected a folder .*directory"):
    _configure(launcher, [f"--{name}={tmp_path / 'file'}"])


@pytest.mark.parametrize(("launcher", "name"), _places(places.NEW_FILE, places.FILE))
def test_folders_in_place_of_files_are_refused(launcher, name, tmp_path):
  with pytest.raises(ValueError, match=f"--{name}: expected a file .*directory"):
    _configure(launcher, [f"--{name}={tmp_path}"])


def test_places_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
  for kind in (places.NEW_FOLDER, places.NEW_FILE):
    with pytest.raises(ValueError, match="--output: expected a .*Permission denied"):
      places.check("--output", str(tmp_path / "new" / "page"), kind)
  places.check("--data_dir", str(tmp_path), places.FOLDER)
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  with pytest.raises(ValueError, match="--data_dir: expected a folder to read, got"):
    places.check("--data_dir", str(tmp_path), places.FOLDER)


def test_a_path_may_begin_at_home(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  config = _configure("jobs.information_flow", ["--workdir=~/runs/a"])
  assert config.workdir == str(tmp_path / "runs" / "a")


@pytest.mark.parametrize(
  ("value", "given", "expected"),
  [
    (math.nan, {}, "a number and finite in float32"),
    (10**400, {"least": 1}, "1 or more and at most 2147483647"),
    (1e-46, {"above": 0}, "above 0 in float32"),
    (2.0, {"above": 0, "most": 1}, r"a number in \(0, 1\]"),
    (1.0, {"least": 0, "below": 1}, r"a number in \[0, 1\)"),
    (-1, {"least": 0}, "0 or above"),
  ],
)
def test_check_number_says_what_it_expects(value, given, expected):
  with pytest.raises(ValueError, match=f"^--x: expected {expected}, got "):
    limits.check_number("--x", value, limits.Limits(**given))

"""The start of a command."""

import dataclasses
import errno
import logging
import subprocess
import sys

import pytest
from absl import flags

from flowkd_jax.cli import launch
from tests.cli import launchers


@pytest.mark.slow
@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--batch_size=1e3"], "error: flag --batch_size=1e3: "),
    (["--channels=0", "--image_size=8"], "error: --channels: expected 1 or more"),
    (["cnn1"], "error: expected flags only, got cnn1"),
  ],
)
def test_refusals_are_one_sentence_and_exit_status_2(arguments, said):
  done = subprocess.run(
    [sys.executable, "-m", "flowkd_jax", "taps", *arguments],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr.startswith(said)
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("arguments", "verbosity"),
  [([], -1), (["--verbosity=0"], 0), (["--verbosity=-2"], -2)],
)
def test_messages_of_libraries_are_shown_from_warnings_on(
  arguments, verbosity, monkeypatch
):
  values = flags.FlagValues()
  flags.DEFINE_integer("verbosity", -1, "", flag_values=values)
  monkeypatch.setattr(launch.flags, "FLAGS", values)
  launch._parse(["flowkd", *arguments])
  assert values.verbosity == verbosity
  # Otherwise absl raises it to INFO.
  assert not values["verbosity"].using_default_value


@pytest.mark.parametrize(
  ("verbosity", "least"), [(-1, "WARNING"), (0, "INFO"), (1, "DEBUG"), (-2, "ERROR")]
)
def test_messages_below_the_verbosity_are_left_out(verbosity, least, monkeypatch):
  handler = logging.NullHandler()
  monkeypatch.setattr(launch.absl_logging, "get_absl_handler", lambda: handler)
  launch._quieten(verbosity)
  levels = ("DEBUG", "INFO", "WARNING", "ERROR")
  records = [logging.makeLogRecord({"levelno": getattr(logging, n)}) for n in levels]
  shown = [handler.filter(record) for record in records]
  assert [*map(bool, shown)] == [n in levels[levels.index(least) :] for n in levels]


def test_errors_of_the_file_system_name_the_file(capsys):
  error = OSError(errno.ENOSPC, "No space left on device", "/full/config.json")
  assert launch._exit_status(error, "/full") == 2
  assert launch._exit_status(OSError(errno.ENOSPC, "No space left"), "/full") == 2
  assert launch._exit_status(MemoryError("Unable to allocate 9 TiB"), "") == 1
  assert capsys.readouterr().err.splitlines() == [
    "error: /full/config.json: No space left on device",
    "error: --workdir=/full: No space left",
    "error: not enough memory: Unable to allocate 9 TiB",
  ]


def test_arguments_without_dashes_are_the_setting_that_takes_them():
  assert launch._by_position(["a", "b,c"], "workdirs", {}) == {"workdirs": ("a", "b,c")}
  assert launch._by_position([], None, {"workdirs": ("a",)}) == {}
  with pytest.raises(ValueError, match="--workdirs: expected the flag or b, got both"):
    launch._by_position(["b"], "workdirs", {"workdirs": ("a",)})
  with pytest.raises(ValueError, match="expected flags only, got b"):
    launch._by_position(["b"], None, {})


@pytest.mark.slow
def test_report_takes_folders_and_then_flags(tmp_path):
  arguments = [str(tmp_path), f"--output={tmp_path / 'page.html'}"]
  done = subprocess.run(
    [sys.executable, "-m", "flowkd_jax", "report", *arguments],
    capture_output=True,
    text=True,
  )
  # Both were understood: the folder is looked at, and it holds no run.
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: {tmp_path / 'metrics.jsonl'}: expected the")


@pytest.mark.parametrize("launcher", launchers.LAUNCHERS)
def test_help_of_every_launcher_names_its_flags(launcher, capsys):
  module = launchers.load(launcher)
  launch.launch(module.Config, module.configure, module.run, arguments=["--help"])
  text = capsys.readouterr().out
  assert text.startswith("usage: ")
  assert module.__doc__.splitlines()[0].split()[0] in text
  for field in dataclasses.fields(module.Config):
    assert f"\n  --{field.name}" in text

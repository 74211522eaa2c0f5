"""The command `flowkd`: what it lists, what it refuses."""

import re
import subprocess
import sys
import time

import pytest

import flowkd_jax
from flowkd_jax import _extra
from flowkd_jax import cli
from flowkd_jax import jobs


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_commands_are_listed_one_line_each(arguments, capsys):
  cli.main(arguments)
  lines = capsys.readouterr().out.splitlines()
  for command, text in cli.COMMANDS.items():
    assert f"  {command.ljust(6)}  {text}" in lines
  assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
  "arguments", [["train"], ["train", "--help"], ["train", "-h"], ["help", "train"]]
)
def test_jobs_are_listed_one_line_each(arguments, capsys):
  cli.main(arguments)
  lines = capsys.readouterr().out.splitlines()
  for job, text in jobs.JOBS.items():
    assert any(re.fullmatch(rf"  {job} +{re.escape(text)}", line) for line in lines)
  assert max(map(len, lines)) <= 80


def test_version_is_told(capsys):
  cli.main(["--version"])
  assert capsys.readouterr().out == f"flowkd_jax {flowkd_jax.__version__}\n"


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (
      ["trian"],
      "expected a command, one of train, taps, .*'trian'; did you mean",
    ),
    (["--workdir=W"], "expected a command, one of train, .*, got '--workdir=W'"),
    (
      ["train", "information-flow"],
      "expected a job, one of information_flow, .*; did you mean information_flow",
    ),
    (["train", "--seed=1", "federated"], "expected a job, .*, got '--seed=1'"),
    (["help", "nothing"], "expected a command"),
    (["train", "", "--help"], "expected a job"),
  ],
)
def test_unknown_commands_and_jobs_are_refused(arguments, said, capsys):
  with pytest.raises(SystemExit) as ended:
    cli.main(arguments)
  assert ended.value.code == 2
  error = capsys.readouterr().err
  assert re.match(f"error: {said}", error), error
  assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "federated"]])
def test_core_installation_is_told_what_to_install(arguments, capsys, monkeypatch):
  monkeypatch.setattr(_extra, "missing", lambda packages: ["flax", "rich"])
  with pytest.raises(SystemExit) as ended:
    cli.main(arguments)
  assert ended.value.code == 2
  captured = capsys.readouterr()
  assert 'install the extra: pip install "flowkd_jax[train]"\n' in captured.err
  assert captured.err.count("\n") == 1
  assert not captured.out
  cli.main(["--version"])


def test_jobs_are_known_by_name():
  with pytest.raises(ValueError, match="name: expected one of information_flow, "):
    jobs.load("flow")


def test_settings_have_the_name_of_their_job():
  for name in jobs.JOBS:
    settings = jobs.load(name).Config
    assert jobs.name_of(settings()) == name
  assert jobs.name_of(object()) == "builtins"


def test_lists_load_nothing_heavy():
  program = (
    "import sys; from flowkd_jax import cli; cli.main(['train']); cli.main([]);"
    "cli.main(['--version']); print(*sys.modules, sep='\\n')"
  )
  began = time.monotonic()
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert time.monotonic() - began < 30
  heavy = {"jax", "numpy", "absl", "rich", "flax", "optax"}
  assert not {*done.stdout.splitlines()} & heavy


def test_a_closed_pipe_is_no_error():
  command = f"{sys.executable} -u -m flowkd_jax --help | head -n 1"
  done = subprocess.run(
    ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
  )
  assert "Traceback" not in done.stderr
  assert done.stdout.startswith("flowkd_jax ")

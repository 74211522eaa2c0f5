"""Help texts."""

import dataclasses
import re

import pytest

from flowkd_jax import cli
from flowkd_jax import jobs
from flowkd_jax.cli import flag_help
from flowkd_jax.cli import groups
from flowkd_jax.cli import hosts
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places
from tests.cli import launchers

# Words that point to another text: flags are shown in another order than written.
POINTING = (
  r"\b(above|below|likewise|the same (as|of)|that (weight|rate|divergence)|"
  r"such (a |an )?(measurement|step)|these|those|of it|by which they)\b"
)


@dataclasses.dataclass(frozen=True)
class _Config:
  """Settings of a test."""

  folder: str = fields.setting("", "A folder.", required=True, place=places.FOLDER)
  size: int = fields.setting(3, "A size.", least=1)
  loud: bool = fields.setting(False, "Loudness.")
  parts: tuple[str, ...] = fields.setting(("x", "y"), "Parts.", choices=("x", "y", "z"))
  note: str | None = fields.setting(None, "A [bold]note[/bold] :smile:.")


def _shown(capsys, *arguments, **options):
  flag_help.show(*arguments, **options)
  return capsys.readouterr().out


def test_flags_are_shown_with_defaults_presets_and_choices(capsys):
  presets = {"--dataset=digits": {"size": 2, "loud": True}}
  text = _shown(capsys, "flowkd x", "Purpose.", [_Config], presets=presets)
  assert text.startswith("usage: flowkd x --folder=DIR [--flag=value ...]\n")
  for entry in (
    "  --folder=DIR\n      A folder. Required.\n",
    "  --size=INTEGER\n      A size. Default: 3. With --dataset=digits: 2.\n",
    "  --loud, --noloud\n      Loudness. Default: no. With --dataset=digits: yes.\n",
    "  --parts=A,B,...\n      Parts. Choices: x, y, z. Default: x,y.\n",
    "  --note=TEXT\n      A [bold]note[/bold] :smile:.\n",
    "  --help, -h\n",
  ):
    assert entry in text, entry
  assert not re.search(r"[^\S\n]\n", text)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal(width, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", str(width))
  doc = f"Purpose {'word ' * 40}\n\n  entry  {'word ' * 40}\n\n    flowkd --x\n\nEnd."
  text = _shown(capsys, "flowkd x", doc, [_Config])
  assert "\n    flowkd --x\n" in text
  assert "\n  entry  word" in text
  assert "\n         word" in text  # below the explanation
  assert max(map(len, text.splitlines())) <= min(width, 100)


def test_terminals_get_colors_and_pipes_none(capsys, monkeypatch):
  assert "\x1b" not in _shown(capsys, "flowkd x", None, [_Config])
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("TERM", "xterm")
  assert "\x1b[1m" in _shown(capsys, "flowkd x", None, [_Config])


def test_settings_by_position_are_in_the_usage(capsys):
  text = _shown(capsys, "flowkd x", None, [_Config], positional="folder")
  assert text.startswith("usage: flowkd x FOLDER ... [--flag=value ...]\n")


@pytest.mark.parametrize("asking", ["-h", "--help", "-help", "--helpfull", "--help=1"])
def test_help_is_asked_for_anywhere(asking):
  assert flag_help.is_asked(["--seed=1", asking])
  assert not flag_help.is_asked(["--seed=1", "--helper", "help"])


@pytest.mark.parametrize("job", jobs.JOBS)
def test_help_of_jobs_has_groups_and_presets(job, capsys):
  cli.main(["train", job, "--workdir=W", "--help"])
  text = capsys.readouterr().out
  assert text.startswith(f"usage: flowkd train {job} --workdir=DIR ")
  titles = [line for line in text.splitlines() if line in groups.GROUPS]
  assert titles == [title for title in groups.GROUPS if title in titles]
  assert {"Data", "Networks", "Training", "Method", "Measuring"} <= {*titles}
  plain = " ".join(text.split())
  module = jobs.load(job)
  assert "With --dataset=digits" in plain
  for dataset, settings in module.PRESETS.items():
    for value in settings.values():
      assert f"With --dataset={dataset}: {flag_help._shown(value)}." in plain


@pytest.mark.parametrize("command", ["taps", "doctor", "report"])
def test_help_of_commands_ends_well(command, capsys):
  cli.main([command, "--help"])
  assert capsys.readouterr().out.startswith(f"usage: flowkd {command} ")
  cli.main(["help", command])
  assert "--verbosity=-1" in capsys.readouterr().out


@pytest.mark.parametrize("launcher", [*launchers.LAUNCHERS, "cli.hosts"])
def test_help_texts_stand_alone(launcher):
  config = hosts.Config if launcher == "cli.hosts" else launchers.load(launcher).Config
  texts = {field.name: field.metadata["help"] for field in dataclasses.fields(config)}
  assert len({*texts.values()}) == len(texts)
  for name, text in texts.items():
    assert re.match(r"[A-Z].*\.$", text), (name, text)
    assert not re.match(r"(As|Of|What|Which|Those|How|Where|Whether)\b", text), name
    found = re.search(POINTING, text, re.IGNORECASE)
    assert not found, (name, text)

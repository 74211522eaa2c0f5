"""Versions and names that stand outside of the code."""

import pathlib
import re

import flowkd_jax
from flowkd_jax.jobs import fields

ROOT = pathlib.Path(__file__).parents[2]


def test_changelog_names_this_version_and_every_flag_that_was_renamed():
  text = (ROOT / "CHANGELOG.md").read_text()
  assert f"## [{flowkd_jax.__version__}]" in text
  for old, new in fields.RENAMED.items():
    assert f"| `--{old}` | `--{new}` |" in text


def test_commands_of_the_changelog_are_there():
  text = (ROOT / "CHANGELOG.md").read_text()
  commands = re.findall(r"\| `python -m ([\w.]+)` \|\n", text)
  assert len(commands) > 8
  for command in commands:
    assert (ROOT / f"{command.replace('.', '/')}.py").is_file(), command


def test_citation_is_of_this_version():
  text = (ROOT / "CITATION.cff").read_text()
  assert f"\nversion: {flowkd_jax.__version__}\n" in text

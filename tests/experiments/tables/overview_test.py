"""The table of all systems."""

import pathlib
import re

import pytest

from experiments.studies import catalogue
from experiments.tables import kept_runs
from experiments.tables import overview
from experiments.tables import update

PAGE = (update.HERE / "RESULTS.md").read_text()


def _kept(name):
  return kept_runs.read(update.HERE / "results" / name)


def _anchor(heading):
  """Anchor of a heading, as GitHub and the site make it."""
  return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_system_has_its_control_and_its_section():
  anchors = {_anchor(title) for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
  assert {system.section for system in overview.SYSTEMS} <= anchors
  cells = [line.split("|")[1:-1] for line in overview.table(_kept).splitlines()[2:]]
  assert len(cells) == len(overview.SYSTEMS)
  for system, row in zip(overview.SYSTEMS, cells, strict=True):
    assert re.match(r" *\d+\.\d\d", row[2]), system.title
    assert re.match(r" [+−]\d+\.\d\d", row[4]), system.title


def test_all_six_methods_are_there():
  jobs = {catalogue.STUDIES[one.study].launches[0].job for one in overview.SYSTEMS}
  assert len(jobs) == 6


def test_page_begins_with_the_table_that_the_kept_runs_give():
  first = PAGE[: PAGE.index("## ")]
  assert overview.table(_kept) in first


def test_systems_without_runs_say_so(tmp_path):
  table = overview.table(lambda name: kept_runs.read(pathlib.Path(tmp_path) / name))
  assert table.count("not run") == len(overview.SYSTEMS)


def test_a_column_that_the_study_does_not_have_is_an_error(monkeypatch):
  broken = overview.SYSTEMS[-1]._replace(column="speed")
  monkeypatch.setattr(overview, "SYSTEMS", (broken,))
  with pytest.raises(KeyError, match="speed"):
    overview.table(_kept)

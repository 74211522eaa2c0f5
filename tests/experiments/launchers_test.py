"""The launchers of the repository, three lines each: a job by its name."""

import pathlib
import runpy

import pytest

from flowkd_jax import cli
from flowkd_jax import jobs

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHERS = sorted((ROOT / "experiments").glob("[!_]*.py"))


def test_every_job_of_the_list_has_a_launcher():
  assert len(LAUNCHERS) == 7
  for path in LAUNCHERS:
    assert (ROOT / "flowkd_jax" / "jobs" / path.name).exists()


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launchers_are_three_lines(path):
  lines = path.read_text().splitlines()
  assert lines[-2:] == ['if __name__ == "__main__":', f'  cli.train("{path.stem}")']


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launchers_train_the_job_of_their_name_as_programs_only(path, monkeypatch):
  trained = []
  monkeypatch.setattr(cli, "train", trained.append)
  runpy.run_path(str(path))
  assert trained == []
  runpy.run_path(str(path), run_name="__main__")
  assert trained == [path.stem]
  assert trained[0] in jobs.JOBS

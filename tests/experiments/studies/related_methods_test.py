"""The studies of the methods beside the main one."""

import pytest

from experiments.studies import related_methods
from flowkd_jax import jobs

STUDIES = related_methods.STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_columns_and_baselines_are_of_the_study(name):
  study = STUDIES[name]
  runs = {run.name for run in study.runs}
  arms = {arm.name: arm for arm in study.comparison.arms}
  assert len(arms) == len(study.comparison.arms)
  for column in study.comparison.columns:
    assert set(column.runs) <= runs
  for arm in arms.values():
    assert {*arm.baselines} - {""} <= arms.keys()
    assert len(arm.baselines) in (0, len(study.comparison.baselines))


@pytest.mark.parametrize("name", STUDIES)
def test_arms_are_stages_that_their_launches_run(name):
  study = STUDIES[name]
  arms = {arm.name.partition("/")[0] for arm in study.comparison.arms}
  for run in study.launches:
    known = set(jobs.load(run.job).Config.stages)
    given = [flag for flag in run.flags if flag.startswith("--stages=")]
    for flag in given:
      known = set(flag.removeprefix("--stages=").split(","))
    assert arms <= known or run.job == "online_ensemble"


def test_domains_that_are_tested_on_are_not_trained_on():
  for run in (*STUDIES["pacs"].runs, *STUDIES["pacs_64"].runs):
    domain = run.name.removeprefix("without_")
    flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in run.flags)
    assert flags["held_out"] == domain
    assert flags["test_split"] == f"{domain}[:1500]"
    sources = flags["train_split"].split("+")
    assert len(sources) == 3
    assert not any(source.startswith(domain) for source in sources)
    assert all(
      source.endswith("[500:600]") for source in flags["validation_split"].split("+")
    )

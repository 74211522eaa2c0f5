"""The studies on handwritten digits."""

import pytest

from experiments.studies import digits
from flowkd_jax.jobs import flow_settings


def _stages(run):
  """Stages that a launch runs: those of its flag, or all."""
  for flag in run.flags:
    if flag.startswith("--stages="):
      return flag.removeprefix("--stages=").split(",")
  return flow_settings.STAGES


@pytest.mark.parametrize("study", [digits.METHOD, digits.TRANSFORMERS])
def test_rows_are_networks_of_launches_that_train_their_stage(study):
  launches = {run.name: run for run in study.launches}
  for run in study.runs:
    assert run.result in _stages(launches[run.folder])
  assert study.baseline in {run.name for run in study.runs}


def test_launches_need_nothing_of_the_machine():
  for study in (digits.METHOD, digits.TRANSFORMERS):
    for run in study.launches:
      assert run.flags[0] == "--dataset=digits"
      assert not any("{" in flag for flag in run.flags)

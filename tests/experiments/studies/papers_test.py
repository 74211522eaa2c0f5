"""The studies at the size of the papers."""

import pytest

from experiments.studies import catalogue
from experiments.studies import papers
from experiments.studies import run as driver
from flowkd_jax.jobs import optimizers


def _jobs(tmp_path):
  config = driver.configure(study="papers", workdir=str(tmp_path), data_dir="D")
  return {str(j.folder.relative_to(tmp_path)): j for j in driver.jobs(config)}


def test_the_queue_has_every_launch_and_begins_with_the_chain(tmp_path):
  jobs = _jobs(tmp_path)
  names = [*jobs]
  assert names[:2] == [f"paper_chain/student/{seed}" for seed in "12"]
  launches = {name.rpartition("/")[0] for name in names} - {"paper_chain/student"}
  assert launches == {
    f"{study}/{run.name}"
    for study, found in papers.STUDIES.items()
    for run in found.launches
  }
  places = {
    study: names.index(next(n for n in names if n.startswith(f"{study}/")))
    for study in papers.STUDIES
  }
  assert places["papers_hsakd_r32x4_r8x4"] < places["papers_similarity"]
  assert places["papers_ensemble_110"] < places["papers_kddg_resnet20"]
  assert places["papers_fedgen_rates"] < places["papers_fedgen_mnist"]


def test_a_launch_comes_after_those_whose_networks_it_takes(tmp_path):
  jobs = _jobs(tmp_path)
  names = [*jobs]
  taken = 0
  for name, job in jobs.items():
    for flag in job.command:
      if flag.startswith("--networks_from="):
        source = flag.partition("=")[2].removeprefix(f"{tmp_path}/")
        assert names.index(source) < names.index(name)
        taken += 1
  assert taken == 3 * 10  # recipes and parts, three seeds


@pytest.mark.parametrize("study", papers.STUDIES)
def test_every_study_has_a_control_or_published_numbers(study):
  found = papers.STUDIES[study]
  assert found is catalogue.STUDIES[study]
  if found.comparison is None:
    assert found.published
    return
  named = {arm.name for arm in found.comparison.arms}
  for arm in found.comparison.arms:
    assert {*arm.baselines} <= named
  assert any("control" in arm.title for arm in found.comparison.arms)


@pytest.mark.parametrize(
  ("epochs", "phases"),
  [
    (240, "150@0.05,30@5e-3,30@5e-4,30@5e-5"),
    (60, "38@0.05,7@5e-3,7@5e-4,8@5e-5"),
  ],
)
def test_steps_of_the_rate_are_at_the_same_shares(epochs, phases):
  runs = papers.STUDIES["papers_hsakd_r56_r20"].runs
  (run,) = [run for run in runs if run.name == f"epochs_{epochs}"]
  assert f"--student_epochs={phases}" in run.flags
  assert optimizers.number_of_epochs(phases) == epochs

"""The studies of federated distillation at the size of the paper."""

from experiments.studies import papers_federated


def test_runs_wait_for_the_search_and_have_a_rate_for_every_arm():
  for dataset in ("mnist", "cifar10"):
    study = papers_federated.STUDIES[f"papers_fedgen_{dataset}"]
    assert not study.waits or study.waits.startswith(papers_federated.SEARCH)
    assert study.comparison is not None
    for run in study.runs:
      rates = [flag for flag in run.flags if "learning_rate" in flag]
      assert len(rates) == len(study.comparison.arms)


def test_the_search_tests_on_no_test_image():
  for run in papers_federated.STUDIES[papers_federated.SEARCH].runs:
    assert "--test_split=train[90%:]" in run.flags
    assert any(flag.startswith("--train_split=train[:") for flag in run.flags)

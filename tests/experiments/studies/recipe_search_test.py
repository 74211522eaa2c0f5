"""The search for the recipes."""

from experiments.studies import recipe_search
from flowkd_jax.jobs import flow_settings

RUNS = {run.name: run for run in recipe_search.STUDY.runs}


def test_runs_have_names_and_flags_of_their_own():
  assert len(RUNS) == len(recipe_search.STUDY.runs)
  assert len({run.flags for run in RUNS.values()}) == len(RUNS)
  assert {recipe_search.STUDY.baseline, *recipe_search.STUDY.pictured} <= RUNS.keys()


def test_no_run_sees_the_test_images():
  for run in RUNS.values():
    splits = [flag for flag in run.flags if "_split=" in flag]
    assert splits == ["--train_split=train[:45000]", "--test_split=train[45000:]"]
    assert run.seeds == 1


def test_every_recipe_was_tried_at_its_rate():
  for name, recipe in flow_settings.RECIPES.items():
    flags = RUNS[name].flags
    assert (f"--recipe={name}" in flags) == (name != "paper")
    rate = recipe.get("student_epochs", "50@1e-3").partition("@")[2]
    assert f"--student_epochs=15@{rate}" in flags

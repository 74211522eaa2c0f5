"""Every module has a test file of its own name."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# Modules whose tests are still in files of other names. A module that gets its own file
# leaves this list; a new module never enters it.
TESTED_ELSEWHERE = {
  "experiments/benchmarks/torch_losses.py",
  "experiments/benchmarks/torch_step.py",
  "experiments/domain_generalization.py",
  "experiments/examples/equimo_vit.py",
  "experiments/federated.py",
  "experiments/hierarchical_self_supervised.py",
  "experiments/information_flow.py",
  "experiments/online_ensemble.py",
  "experiments/similarity_preserving.py",
  "experiments/studies/catalogue.py",
  "experiments/studies/digits.py",
  "experiments/studies/recipe_search.py",
  "experiments/studies/related_methods.py",
  "experiments/studies/spec.py",
  "experiments/tables/network_rows.py",
  "experiments/tables/run_list.py",
  "experiments/tables/update.py",
}


def _test_files():
  """Test file of each module: `flowkd_jax/room/_x.py` has `tests/room/x_test.py`."""
  files = {}
  for package in ("flowkd_jax", "experiments"):
    for path in (ROOT / package).rglob("*.py"):
      parts = path.relative_to(ROOT).with_suffix("").parts
      if parts[-1].startswith("__"):
        continue
      below = parts[1:] if package == "flowkd_jax" else parts
      names = [part.removeprefix("_") for part in below]
      tests = ROOT.joinpath("tests", *names[:-1], f"{names[-1]}_test.py")
      files["/".join(parts) + ".py"] = tests
  return files


def test_every_module_has_a_test_file_of_its_name():
  missing = {name for name, tests in _test_files().items() if not tests.exists()}
  assert missing - TESTED_ELSEWHERE == set(), "write the test files of these modules"
  assert TESTED_ELSEWHERE - missing == set(), "take these off TESTED_ELSEWHERE"


def test_launchers_of_the_repository_are_three_lines():
  """What they call is tested in `tests/jobs` and `tests/cli`."""
  launchers = [*(ROOT / "experiments").glob("[!_]*.py")]
  assert len(launchers) == 6
  for path in launchers:
    lines = path.read_text().splitlines()
    assert lines[-2:] == ['if __name__ == "__main__":', f'  cli.train("{path.stem}")']
    assert (ROOT / "flowkd_jax" / "jobs" / path.name).exists()

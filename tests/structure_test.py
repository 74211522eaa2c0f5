"""Every module has a test file of its own name."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]


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
      if len(parts) == 2 and package == "experiments":
        names[-1] = "launchers"  # they differ in a name alone
      tests = ROOT.joinpath("tests", *names[:-1], f"{names[-1]}_test.py")
      files["/".join(parts) + ".py"] = tests
  return files


def test_every_module_has_a_test_file_of_its_name():
  missing = {name for name, tests in _test_files().items() if not tests.exists()}
  assert missing == set(), "write the test files of these modules"

"""Rules for the files of the packages: names of test files, docstrings."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
MODULES = [
  path
  for package in ("flowkd_jax", "experiments")
  for path in sorted((ROOT / package).rglob("*.py"))
]
QUESTION = re.compile(r"(What|Which|Of|Those|As|How|Where|Whether|When|Why|Who)\b")


def _test_files():
  """Test file of each module: `flowkd_jax/room/_x.py` has `tests/room/x_test.py`."""
  files = {}
  for path in MODULES:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1].startswith("__"):
      continue
    below = parts[1:] if parts[0] == "flowkd_jax" else parts
    names = [part.removeprefix("_") for part in below]
    if len(parts) == 2 and parts[0] == "experiments":
      names[-1] = "launchers"  # they differ in a name alone
    tests = ROOT.joinpath("tests", *names[:-1], f"{names[-1]}_test.py")
    files["/".join(parts) + ".py"] = tests
  return files


def _first_lines():
  """First line of every docstring, by its place."""
  kinds = ast.Module | ast.ClassDef | ast.FunctionDef
  tests = sorted((ROOT / "tests").rglob("*.py"))
  for path in [*MODULES, *tests]:
    for node in ast.walk(ast.parse(path.read_text())):
      text = ast.get_docstring(node) if isinstance(node, kinds) else None
      if text:
        line = getattr(node, "lineno", 1)
        yield f"{path.relative_to(ROOT)}:{line}", text.splitlines()[0]


def test_every_module_has_a_test_file_of_its_name():
  missing = {name for name, tests in _test_files().items() if not tests.exists()}
  assert missing == set(), "write the test files of these modules"


def test_docstrings_begin_with_a_noun_or_a_verb():
  wrong = {place: line for place, line in _first_lines() if QUESTION.match(line)}
  assert wrong == {}, "say what it is or does: a noun phrase, or a verb and its object"

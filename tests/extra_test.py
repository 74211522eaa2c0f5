"""Messages of a core installation where rooms of the extra are imported."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import flowkd_jax
from flowkd_jax import _extra

needs_extra = pytest.mark.skipif(
  bool(_extra.missing(_extra.COMMANDS)), reason="the extra is not installed"
)
ROOT = pathlib.Path(__file__).parents[1]
# Packages of the extra that others need and this package does not import by itself.
NOT_IMPORTED = {"importlib-resources", "array-record"}

# Packages of the extra are made absent; each statement is tried on its own.
PROGRAM = """
import sys
from flowkd_jax import _extra
absent = _extra.COMMANDS
for name in absent:
  if name not in ("absl", "scipy"):  # optax and JAX need these
    sys.modules[name.split(".")[0]] = None
for statement in sys.argv[1:]:
  try:
    exec(statement)
  except Exception as error:
    print(f"{statement} -> {type(error).__name__}: {error}")
  else:
    print(f"{statement} -> done")
"""


def _tried(*statements):
  """Outcome of each statement in a core installation."""
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, *statements],
    capture_output=True,
    text=True,
    check=True,
  )
  return dict(line.split(" -> ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
def test_rooms_of_the_extra_say_what_to_install():
  rooms = [room for room, packages in _extra.ROOMS.items() if packages]
  statements = [
    *(f"from flowkd_jax import {room}" for room in rooms),
    *(f"import flowkd_jax.{room}" for room in rooms),
    "import flowkd_jax; flowkd_jax.methods",
    "from flowkd_jax.methods import hint",
    "from flowkd_jax.train import fit",
    "from flowkd_jax import jobs; jobs.load('information_flow')",
    "import flowkd_jax.jobs.federated",
    "from flowkd_jax import data; data.load('digits', 'train')",
  ]
  found = _tried(*statements)
  assert len(found) == len(statements)
  for statement, said in found.items():
    assert "Error: " in said, statement
    assert "flowkd_jax[train]" in said, (statement, said)
    assert "No module named" not in said, (statement, said)


@pytest.mark.slow
def test_core_needs_none_of_the_extra():
  rooms = (*flowkd_jax.__all__, "data", "evaluation", "jobs")
  found = _tried(
    *(f"from flowkd_jax import {room}" for room in rooms),
    "from flowkd_jax import *",
    "import flowkd_jax; assert 'methods' not in dir(flowkd_jax)",
    "import flowkd_jax; assert 'losses' in dir(flowkd_jax)",
  )
  assert set(found.values()) == {"done"}, found


@needs_extra
def test_rooms_are_listed_and_unknown_names_refused():
  assert {*flowkd_jax.__all__, *_extra.ROOMS, "jobs"} <= {*dir(flowkd_jax)}
  with pytest.raises(AttributeError, match="no attribute 'loses'"):
    flowkd_jax.loses  # noqa: B018


def test_required_packages_are_named():
  with pytest.raises(ModuleNotFoundError, match=r"data needs nothing_such, .*\[tr"):
    _extra.require("data", ("nothing_such",))
  assert _extra.missing(("json", "nothing_such", "nothing_such.inside")) == [
    "nothing_such",
    "nothing_such.inside",
  ]
  _extra.require("data")


@pytest.mark.parametrize("room", _extra.ROOMS)
def test_rooms_require_what_their_modules_import(room):
  core = {"flowkd_jax", "jax", "jaxtyping", "numpy", "optax", "scipy", "equinox"}
  imported = set()
  for path in (ROOT / "flowkd_jax" / room).rglob("*.py"):
    for node in ast.parse(path.read_text()).body:
      names = [alias.name for alias in getattr(node, "names", ())]
      if isinstance(node, ast.ImportFrom):
        names = [node.module]
      elif not isinstance(node, ast.Import):
        continue
      imported |= {name.split(".")[0] for name in names}
  required = {name.split(".")[0] for name in _extra.ROOMS[room]}
  assert imported - core - sys.stdlib_module_names <= required


@pytest.mark.slow
@needs_extra
def test_commands_need_the_whole_extra():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  extra = {
    re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")
    for requirement in project["optional-dependencies"]["train"]
  }
  providers = importlib.metadata.packages_distributions()
  provided = {
    distribution.lower().replace("_", "-")
    for name in _extra.COMMANDS
    for distribution in providers[name.split(".")[0]]
  }
  assert extra - NOT_IMPORTED <= provided

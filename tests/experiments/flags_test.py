"""Every flag of a launcher is read by it: a flag without a use is not its flag."""

import ast
import dataclasses
import functools
import importlib
import pathlib

import pytest

from flowkd_jax.cli import launch

FOLDER = pathlib.Path(launch.__file__).parent
# `doctor` has the flags of `information_flow`, so that one command line serves both.
LAUNCHERS = sorted(
  path.stem
  for path in FOLDER.glob("*.py")
  if "launch.launch(" in path.read_text() and path.stem not in ("launch", "doctor")
)
# Modules that know settings without being a part of the launcher that imports them.
_OTHERS = {"launch", "limits", "studies", "designs", "results"}
# Fields that are read by a name in a variable: who reads them.
READ_BY_NAME = {
  ("information_flow", "recipe"): "configure, which starts from its settings",
  **dict.fromkeys(
    [("study", "auxiliary_weights"), ("study", "data_dir")], "jobs, as placeholders"
  ),
  **dict.fromkeys(
    [
      ("hierarchical_self_supervised", "teacher_network"),
      ("hierarchical_self_supervised", "student_network"),
      ("online_ensemble", "network"),
    ],
    "settings.staged_network",
  ),
}


@functools.cache
def _modules(name):
  """The launcher and every module of experiments that it imports, at any depth."""
  found, queue = {}, [name]
  while queue:
    module = queue.pop()
    path = FOLDER / f"{module}.py"
    other = module in _OTHERS and module != name
    if module in found or other or not path.exists():
      continue
    found[module] = ast.parse(path.read_text())
    for node in ast.walk(found[module]):
      if isinstance(node, ast.ImportFrom) and node.module:
        parts = node.module.split(".")
        if parts[0] == "experiments":
          queue += parts[1:2] or [alias.name for alias in node.names]
  return found


def _is_config(node):
  """Returns whether an expression is a configuration: config, settings, self.config."""
  name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")
  return name in ("config", "settings", "self")


class _Reads(ast.NodeVisitor):
  """Names of the fields that are read outside of checks; patterns end with *."""

  def __init__(self):
    self.names, self.endings = set(), set()

  def visit_FunctionDef(self, node):
    if not (node.name == "configure" or node.name.lstrip("_").startswith("check")):
      self.generic_visit(node)

  def visit_Attribute(self, node):
    if isinstance(node.ctx, ast.Load) and _is_config(node.value):
      self.names.add(node.attr)
    self.generic_visit(node)

  def visit_Call(self, node):
    if getattr(node.func, "id", "") == "getattr" and _is_config(node.args[0]):
      name = node.args[1]
      if isinstance(name, ast.Constant):
        self.names.add(name.value)
      elif isinstance(name, ast.JoinedStr) and isinstance(
        name.values[-1], ast.Constant
      ):
        self.endings.add(name.values[-1].value)
    self.generic_visit(node)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_flag_is_read(launcher):
  reads = _Reads()
  for tree in _modules(launcher).values():
    reads.visit(tree)
  config_class = importlib.import_module(f"experiments.{launcher}").Config
  unread = [
    field.name
    for field in dataclasses.fields(config_class)
    if field.name not in reads.names
    and not field.name.endswith(tuple(reads.endings) or ("\n",))
    and (launcher, field.name) not in READ_BY_NAME
  ]
  assert not unread


@pytest.mark.parametrize(
  ("launcher", "names"),
  [
    ("online_ensemble", ("adam_beta2", "teacher_cache", "teacher_cache_gib")),
    ("hierarchical_self_supervised", ("adam_beta2",)),
    ("federated", ("teacher_cache", "teacher_cache_dtype")),
  ],
)
def test_flags_of_other_launchers_are_not_taken(launcher, names):
  config_class = importlib.import_module(f"experiments.{launcher}").Config
  assert not {field.name for field in dataclasses.fields(config_class)} & {*names}

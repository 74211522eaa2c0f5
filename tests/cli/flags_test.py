"""Every flag of a launcher is read by it: a flag without a use is not its flag."""

import ast
import dataclasses
import functools

import pytest

from tests.cli import launchers

# Modules that know settings without being a part of the launcher that imports them.
_OTHERS = {"launch", "limits", "fields", "catalogue", "spec", "update"}
# Fields that are read by a name in a variable: who reads them.
READ_BY_NAME = {
  ("jobs.information_flow", "recipe"): "configure, which starts from its settings",
  **dict.fromkeys(
    [("studies.run", "auxiliary_checkpoint"), ("studies.run", "data_dir")],
    "jobs, as placeholders",
  ),
  **dict.fromkeys(
    [
      ("jobs.hierarchical_self_supervised", "teacher_network"),
      ("jobs.hierarchical_self_supervised", "student_network"),
      ("jobs.online_ensemble", "network"),
    ],
    "settings.staged_network",
  ),
}


@functools.cache
def _modules(name):
  """The launcher and every module of jobs or scripts that it imports, at any depth."""
  found, queue = {}, [launchers.MODULES[name]]
  while queue:
    module = queue.pop()
    path = launchers.ROOT / f"{module.replace('.', '/')}.py"
    other = module.rpartition(".")[2] in _OTHERS and module != launchers.MODULES[name]
    if module in found or other or not path.exists():
      continue
    found[module] = ast.parse(path.read_text())
    for node in ast.walk(found[module]):
      source = getattr(node, "module", None) or ""
      if source.startswith(("flowkd_jax.jobs", "experiments")):
        queue += [source, *(f"{source}.{alias.name}" for alias in node.names)]
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


@pytest.mark.parametrize("launcher", launchers.LAUNCHERS)
def test_every_flag_is_read(launcher):
  reads = _Reads()
  for tree in _modules(launcher).values():
    reads.visit(tree)
  config_class = launchers.load(launcher).Config
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
    ("jobs.online_ensemble", ("adam_beta2", "teacher_cache", "teacher_cache_gib")),
    ("jobs.hierarchical_self_supervised", ("adam_beta2",)),
    (
      "jobs.federated",
      ("teacher_cache", "teacher_cache_dtype", "teacher_mixed_precision"),
    ),
  ],
)
def test_flags_of_other_launchers_are_not_taken(launcher, names):
  config_class = launchers.load(launcher).Config
  assert not {field.name for field in dataclasses.fields(config_class)} & {*names}

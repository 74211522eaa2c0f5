"""Names that users write: what is public, and what arguments are called."""

import ast
import importlib
import inspect
import pkgutil

import pytest

import flowkd_jax
from flowkd_jax import losses
from flowkd_jax import methods

ROOMS = [
  f"flowkd_jax.{module.name}"
  for module in pkgutil.iter_modules(flowkd_jax.__path__)
  if not module.name.startswith("_")
]
FILES = [
  f"{room}.{module.name}"
  for room in ("flowkd_jax.jobs", "flowkd_jax.cli")
  for module in pkgutil.iter_modules(importlib.import_module(room).__path__)
]
# Words of version 0.1, and for each the word that all functions use.
OLD_WORDS = {
  "divergence_name": "divergence",
  "heads": "params",
  "kernel_names": "kernels",
  "learnt": "params",
  "learnt_optimizer": "params_optimizer",
  "parameters": "params",
  "projection": "params",
  "tap_map": "pairs",
  "tap_pairs": "pairs",
}
RENAMED = [
  (losses.conditional_divergence, "kernel", "kernels"),
  (losses.crd, "heads", "params"),
  (losses.crd_bank, "heads", "params"),
  (losses.crd_bank_update, "heads", "params"),
  (losses.factor_reconstruction, "networks", "params"),
  (losses.factor_transfer, "networks", "params"),
  (losses.hint, "projection", "params"),
  (losses.information_flow, "divergence_name", "divergence"),
  (losses.information_flow_terms, "kernel_names", "kernels"),
  (losses.quadratic_flow, "kernel_names", "kernels"),
  (losses.quadratic_flow_terms, "kernel_names", "kernels"),
  (losses.vid, "parameters", "params"),
  (methods.distillation, "learnt", "params"),
  (methods.hierarchical_mutual, "learnt_optimizer", "params_optimizer"),
  (methods.hierarchical_student, "learnt_optimizer", "params_optimizer"),
  (methods.hierarchical_teacher, "learnt_optimizer", "params_optimizer"),
  (methods.hint, "learnt_optimizer", "params_optimizer"),
  (methods.online_ensemble, "learnt_optimizer", "params_optimizer"),
]


def _bound_names(module):
  """Names without underscore that a module defines, or imports from the package."""
  room = hasattr(module, "__path__")
  for node in ast.parse(inspect.getsource(module)).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      names = [name for target in targets for name in ast.walk(target)]
      yield from (name.id for name in names if isinstance(name, ast.Name))
    elif room and isinstance(node, ast.ImportFrom) and "flowkd_jax" in str(node.module):
      yield from (alias.asname or alias.name for alias in node.names)


@pytest.mark.parametrize("name", [*ROOMS, *FILES])
def test_every_public_name_is_in_all(name):
  module = importlib.import_module(name)
  public = {
    bound
    for bound in _bound_names(module)
    if not bound.startswith("_") and not inspect.ismodule(getattr(module, bound))
  }
  assert len(module.__all__) == len({*module.__all__})
  assert public <= {*module.__all__}
  for listed in module.__all__:
    assert hasattr(module, listed)


@pytest.mark.parametrize("room", ROOMS)
def test_arguments_have_one_word_for_one_thing(room):
  module = importlib.import_module(room)
  old = {**OLD_WORDS, **({"networks": "params"} if module is losses else {})}
  found = [
    f"{name}({argument}=): {old[argument]}"
    for name in module.__all__
    for argument in _arguments(getattr(module, name))
    if argument in old
  ]
  assert not found


def _arguments(value):
  """Arguments of a function, a class and the methods of a class."""
  functions = [value]
  if inspect.isclass(value):
    functions += [each for each in vars(value).values() if inspect.isfunction(each)]
  for function in functions:
    if callable(function):
      try:
        yield from inspect.signature(function).parameters
      except (TypeError, ValueError):  # type aliases
        continue


@pytest.mark.parametrize(
  ("function", "old", "new"),
  RENAMED,
  ids=[f"{function.__name__}-{old}" for function, old, _ in RENAMED],
)
def test_old_arguments_are_taken_for_the_new(function, old, new):
  arguments = inspect.signature(function).parameters
  assert new in arguments
  assert old not in arguments
  with pytest.raises(TypeError, match=f"expected {new} alone, got {old} too"):
    function(**{old: None, new: None})
  # All other arguments are missing, which is said after the warning.
  with (
    pytest.warns(DeprecationWarning, match=f"{old} is called {new} since version 0.2"),
    pytest.raises(TypeError, match="missing"),
  ):
    function(**{old: None})

"""Search of the code of a module for calls of `sow`."""

import inspect
import types
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

_LIBRARIES = ("jax", "flax", "numpy")


def may_sow(kinds: Iterable[type], base: type, functions: Iterable[Callable]) -> bool:
  """Returns whether methods of classes, or functions that they call, mention `sow`.

  The search follows functions that are called by a global or captured name. Other
  calls are not followed.

  Args:
    kinds: Classes of the modules of a model.
    base: Class whose own methods are skipped, because it defines `sow`.
    functions: Further functions that use the modules.
  """
  seen: set[types.CodeType] = set()
  members = (
    member
    for kind in dict.fromkeys(kinds)
    for each in kind.__mro__
    if each not in base.__mro__
    for member in vars(each).values()
  )
  return any(_names_sow(member, seen) for member in (*members, *functions))


def _names_sow(member: Any, seen: set[types.CodeType]) -> bool:
  function = _function(member)
  if function is None or function.__code__ in seen:
    return False
  seen.add(function.__code__)
  names = {*_names(function.__code__)}
  if "sow" in names:
    return True
  called = [function.__globals__.get(name) for name in names]
  called += [cell.cell_contents for cell in function.__closure__ or () if _is_set(cell)]
  return any(_names_sow(each, seen) for each in called)


def _function(member: Any) -> types.FunctionType | None:
  """Python function behind decorators; None if a library defines it."""
  if isinstance(member, staticmethod | classmethod):
    member = member.__func__
  if not callable(member) or isinstance(member, type):
    return None
  try:
    member = inspect.unwrap(member)
  except ValueError:
    return None
  if not isinstance(member, types.FunctionType):
    return None
  library = (member.__module__ or "").partition(".")[0]
  # Methods of Flax's modules are searched, as some sow; Flax's functions never do.
  if library in _LIBRARIES and "." not in member.__qualname__:
    return None
  return member


def _names(code: types.CodeType) -> Iterator[str]:
  """Names that the code uses, including the code of inner functions."""
  yield from code.co_names
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _names(constant)


def _is_set(cell: types.CellType) -> bool:
  try:
    return cell.cell_contents is not None
  except ValueError:
    return False

"""Hash of the functions that a model holds.

`repr` of a lambda, or of a function inside a function, contains neither its code nor
its captured values. Two models that differ only in such a function would wrongly share
a cache of outputs.
"""

import dataclasses
import functools
import hashlib
import re
import types
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Deeper nesting of captured functions is not followed.
_DEPTH = 5
# Memory address in the representation of a value.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def hash_functions(model: Any) -> str:
  """Hash of code and captured values of the functions in the fields of a model.

  Captured values are variables of enclosing functions, defaults, and globals that the
  code reads. Top-level functions of a module are skipped, because the representation of
  the model already contains their names. The result is "" if no other functions exist.

  Args:
    model: Linen module, or a model made by `capture`.
  """
  parts: list[bytes] = []
  for each in (model, getattr(model, "module", None)):
    if dataclasses.is_dataclass(each):
      for field in dataclasses.fields(each):
        parts += _parts(getattr(each, field.name, None), _DEPTH)
  return hashlib.sha256(b"\0".join(parts)).hexdigest() if parts else ""


def _parts(value: Any, depth: int) -> Iterator[bytes]:
  """Yield bytes that identify the functions inside a value."""
  if depth == 0:
    return
  if isinstance(value, tuple | list):
    for each in value:
      yield from _parts(each, depth - 1)
  elif isinstance(value, Mapping):
    yield from _parts([*value.values()], depth)
  elif isinstance(value, functools.partial):
    yield from _parts(value.func, depth - 1)
    yield from _captured((value.args, value.keywords), depth - 1)
  elif isinstance(value, types.MethodType):
    yield from _parts(value.__func__, depth - 1)
    yield from _captured(value.__self__, depth - 1)
  elif isinstance(value, types.FunctionType):
    yield from _function(value, depth) if _is_local(value) else ()
  elif hasattr(value, "__wrapped__"):  # by `jax.jit`
    yield from _parts(value.__wrapped__, depth - 1)


def _function(function: types.FunctionType, depth: int) -> Iterator[bytes]:
  yield from _code(function.__code__, depth)
  cells = function.__closure__ or ()
  captured = [cell.cell_contents for cell in cells if _is_set(cell)]
  captured += [
    *(function.__defaults__ or ()),
    *(function.__kwdefaults__ or {}).values(),
  ]
  # Globals count too: in a notebook, variables that a lambda reads are globals.
  names = dict.fromkeys(_names(function.__code__))
  captured += [function.__globals__[x] for x in names if x in function.__globals__]
  for each in captured:
    yield from _captured(each, depth - 1)


def _names(code: types.CodeType) -> Iterator[str]:
  """Names of globals and attributes in the code, including inner functions."""
  yield from code.co_names
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _names(constant)


def _code(code: types.CodeType, depth: int) -> Iterator[bytes]:
  yield code.co_code
  yield repr(code.co_names).encode()
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _code(constant, depth)
    else:
      yield from _captured(constant, depth)


def _captured(value: Any, depth: int) -> Iterator[bytes]:
  """Yield bytes that identify a value, equal in every process."""
  if isinstance(value, jax.Array | np.ndarray):
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(value) if is_key else value)
    yield f"{value.dtype} {array.shape}".encode()
    yield array.tobytes()
  elif isinstance(value, tuple | list):
    for each in value:
      yield from _captured(each, depth)
  elif isinstance(value, Mapping):
    yield from _captured([*value.items()], depth)
  elif isinstance(value, set | frozenset):  # Their order differs between processes.
    yield _ADDRESS.sub("", repr(sorted(map(repr, value)))).encode()
  elif isinstance(value, functools.partial) or _is_local(value):
    yield from _parts(value, depth)
  elif hasattr(value, "__qualname__"):  # a function of a module, or a type
    yield f"{value.__module__}.{value.__qualname__}".encode()
    yield from _captured(getattr(value, "__self__", None), depth)
  else:
    yield from _object(value, depth)


def _object(value: Any, depth: int) -> Iterator[bytes]:
  """Description of an object, with attributes or leaves that may be left out."""
  # The representation of a module has its folder.
  said = value.__name__ if isinstance(value, types.ModuleType) else repr(value)
  yield _ADDRESS.sub("", said).encode()
  if depth == 0:
    return
  inside: Any = [leaf for leaf in jax.tree.leaves(value) if leaf is not value]
  if dataclasses.is_dataclass(value):
    fields = dataclasses.fields(value)
    inside = {field.name: getattr(value, field.name, None) for field in fields}
  elif _ADDRESS.search(said):
    inside = getattr(value, "__dict__", {})
  yield from _captured(inside, depth - 1)


def _is_local(value: Any) -> bool:
  """Returns whether a function is a lambda or defined inside another function."""
  is_type = isinstance(value, type)
  return not is_type and "<" in getattr(value, "__qualname__", "")


def _is_set(cell: types.CellType) -> bool:
  try:
    cell.cell_contents  # noqa: B018 (an empty cell raises)
  except ValueError:
    return False
  return True

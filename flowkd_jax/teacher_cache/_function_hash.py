"""Hash of the functions that a model was made with.

The representation of a lambda, or of a function inside a function, says neither what it
computes nor which values it captured: two models that differ in it alone would share a
cache of outputs.
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

# Deeper nesting of captured functions is not followed.
_DEPTH = 5


def hash_functions(model: Any) -> str:
  """Hex digest over code and captured values of functions in the fields of a model.

  Functions of a module are known by their name, which the representation of the model
  holds, and add nothing. The result is "" if there are no other functions.

  Args:
    model: a Linen module, or a model that `capture` made.
  """
  parts: list[bytes] = []
  for each in (model, getattr(model, "module", None)):
    if dataclasses.is_dataclass(each):
      for field in dataclasses.fields(each):
        parts += _parts(getattr(each, field.name, None), _DEPTH)
  return hashlib.sha256(b"\0".join(parts)).hexdigest() if parts else ""


def _parts(value: Any, depth: int) -> Iterator[bytes]:
  """Bytes that tell the functions within a value apart."""
  if depth == 0:
    return
  if isinstance(value, functools.partial):
    yield from _parts(value.func, depth - 1)
    for each in (*value.args, *value.keywords.values()):
      yield from _captured(each, depth - 1)
  elif isinstance(value, types.FunctionType) and "<" in value.__qualname__:
    yield from _code(value.__code__)
    cells = [cell.cell_contents for cell in value.__closure__ or () if _is_set(cell)]
    for each in (*cells, *(value.__defaults__ or ())):
      yield from _captured(each, depth - 1)


def _code(code: types.CodeType) -> Iterator[bytes]:
  yield code.co_code
  yield repr(code.co_names).encode()
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _code(constant)
    else:
      yield repr(constant).encode()


def _captured(value: Any, depth: int) -> Iterator[bytes]:
  if isinstance(value, jax.Array | np.ndarray):
    array = np.asarray(value)
    yield f"{array.dtype} {array.shape}".encode()
    yield array.tobytes()
  elif isinstance(value, int | float | str | bytes | bool | None):
    yield repr(value).encode()
  elif isinstance(value, tuple | list):
    for each in value:
      yield from _captured(each, depth)
  elif isinstance(value, types.FunctionType) and "<" not in value.__qualname__:
    yield f"{value.__module__}.{value.__qualname__}".encode()
  else:
    yield from _parts(value, depth)


def _is_set(cell: types.CellType) -> bool:
  try:
    cell.cell_contents  # noqa: B018 (an empty cell raises)
  except ValueError:
    return False
  return True

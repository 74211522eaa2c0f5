"""Checks of arguments. Each error says what was expected and what came.

Only static properties (rank, shape, dtype) and the values of Python and NumPy numbers
are checked. The value of a JAX array is never read, so every check works under `jit`
and none waits for a device.
"""

import math
import numbers
import operator
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_floating(name: str, array: Any) -> None:
  """Raises TypeError unless `array` has a floating-point dtype."""
  _check_array(name, array)
  dtype = jnp.result_type(array)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f"{name}: expected a floating-point array, got dtype {dtype}; "
      "convert it first, for example with .astype(jnp.float32)"
    )


def check_rows(name: str, array: Any) -> None:
  """Raises ValueError unless `array` is [batch, ...] with at least one row."""
  shape = jnp.shape(array)
  if len(shape) < 2 or 0 in shape:
    raise ValueError(
      f"{name}: expected a non-empty array of shape [batch, ...] with at least "
      f"two axes, got shape {shape}"
    )


def check_features(**arrays: Any) -> None:
  """Raises unless every array is floating and [batch, ...], all of one batch."""
  for name, array in arrays.items():
    check_floating(name, array)
    check_rows(name, array)
  check_same_batch(**arrays)


def check_maps(**arrays: Any) -> None:
  """Raises unless every array is floating [batch, height, width, channels]."""
  for name, array in arrays.items():
    check_floating(name, array)
    shape = jnp.shape(array)
    if len(shape) != 4 or 0 in shape:
      raise ValueError(
        f"{name}: expected non-empty maps of shape [batch, height, width, channels], "
        f"got shape {shape}"
      )
  check_same_batch(**arrays)


def check_mask(mask: Any, features: Any) -> None:
  """Raises ValueError unless `mask` is None or has one entry per row of `features`.

  A sequence of Python booleans or numbers is accepted.
  """
  if mask is not None:
    check_shape("mask", mask, jnp.shape(features)[:1])


def check_same_batch(**arrays: Any) -> None:
  """Raises ValueError unless all arrays agree in their first axis."""
  sizes = {name: jnp.shape(array)[0] for name, array in arrays.items()}
  if len(set(sizes.values())) > 1:
    found = ", ".join(f"{name} has {size}" for name, size in sizes.items())
    raise ValueError(f"expected the same batch size everywhere, but {found}")


def check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
  """Raises ValueError unless `array` has exactly the shape `expected`."""
  # `np.shape` also reads lists.
  shape = np.shape(array)
  if shape != expected:
    raise ValueError(f"{name}: expected shape {expected}, got {shape}")


def check_integer(name: str, array: Any) -> None:
  """Raises TypeError unless `array` has an integer dtype (class labels)."""
  dtype = getattr(array, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
    found = type(array).__name__ if dtype is None else f"dtype {dtype}"
    raise TypeError(f"{name}: expected integer class labels, got {found}")


def check_positive(
  name: str,
  value: Any,
  *,
  rows: int | tuple[int, ...] | None = None,
  least: float = 0.0,
) -> None:
  """Raises unless `value` is a finite number above `least`.

  A JAX array, traced or not, passes if its shape is right, because an option may be
  learnt or follow a schedule inside a compiled program.

  Args:
    name: Name of the argument in the message.
    value: A number, or an array of shape ().
    rows: Number of rows, if an array with one entry per row is accepted too. With a
      tuple (batch, tokens), the shapes (batch,) and (batch, tokens) are accepted.
    least: Lower bound, excluded.

  Raises:
    TypeError: If `value` is not a real number.
    ValueError: If `value` has another shape, or is a Python or NumPy number that is not
      finite or not above `least`.
  """
  _check_real(name, value)
  shape = np.shape(value)
  whole = rows if isinstance(rows, tuple) else () if rows is None else (rows,)
  if shape != whole[: len(shape)]:
    sizes = " x ".join(map(str, whole))
    wanted = f"a number or one for each of {sizes} rows" if whole else "a number"
    raise ValueError(f"{name}: expected {wanted}, got an array of shape {shape}")
  if isinstance(value, jax.Array):
    return
  values = np.asarray(value, np.float64)
  if not np.isfinite(values).all():
    above = "" if least == -math.inf else f" above {least:g}"
    raise ValueError(f"{name}: expected a finite number{above}, got {value}")
  if not (values > least).all():
    raise ValueError(f"{name}: expected a number above {least:g}, got {value}")


def check_number(name: str, value: Any) -> None:
  """Raises unless `value` is a finite number. The value of a JAX array is not read.

  Raises:
    TypeError: If `value` is not a real number.
    ValueError: If the shape of `value` is not (), or if it is a Python or NumPy number
      that is not finite.
  """
  check_positive(name, value, least=-math.inf)


def check_share(name: str, value: Any) -> None:
  """Raises unless `value` is a number in [0, 1]. The value of a JAX array is not read.

  Raises:
    TypeError: If `value` is not a real number.
    ValueError: If the shape of `value` is not (), or if it is a Python or NumPy number
      outside of [0, 1].
  """
  check_number(name, value)
  if not isinstance(value, jax.Array) and not 0 <= value <= 1:
    raise ValueError(f"{name}: expected a number in [0, 1], got {value}")


def check_count(name: str, value: Any) -> None:
  """Raises unless `value` is a whole Python or NumPy number of at least 1.

  Raises:
    TypeError: If `value` is not an integer, or is traced. A count sets shapes, so it
      must be known when the program is compiled.
    ValueError: If `value` is below 1.
  """
  check_whole(name, value, bound=" above 0")
  if operator.index(value) < 1:
    raise ValueError(f"{name}: expected a number above 0, got {value}")


def check_whole(name: str, value: Any, *, bound: str = "") -> None:
  """Raises TypeError unless `value` is a whole Python or NumPy number.

  Args:
    name: Name of the argument in the message.
    value: The number. A traced number raises TypeError, because it cannot set shapes.
    bound: Range that the caller checks, as words for the message.
  """
  try:
    operator.index(value)
  except TypeError:  # a tracer raises a subclass of it
    raise TypeError(
      f"{name}: expected a whole number{bound}, known when the program is compiled, "
      f"got {_named_type(value)}"
    ) from None


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"{name}: expected one of {listed}, got {value!r}")


def _check_array(name, array):
  if not hasattr(array, "dtype"):
    raise TypeError(
      f"{name}: expected an array, got {type(array).__name__}; convert it first, for "
      "example with jax.numpy.asarray"
    )


def _check_real(name, value):
  if isinstance(value, jax.Array | np.ndarray):
    real = jnp.issubdtype(value.dtype, jnp.number) and not jnp.iscomplexobj(value)
  else:
    real = isinstance(value, numbers.Real)
  if not real:
    raise TypeError(f"{name}: expected a number, got {_named_type(value)}")


def _named_type(value):
  if isinstance(value, jax.Array):
    return f"an array of dtype {value.dtype}"
  return f"{value!r} of type {type(value).__name__}"

"""Checks of arguments: each error names what was expected and what came.

Only static properties (rank, shape, dtype, Python numbers) are checked, so every
check works under `jit`.
"""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp


def check_floating(name: str, array: Any) -> None:
  """Raises TypeError unless `array` has a floating-point dtype."""
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
  """Raises ValueError unless `mask` is None or has one entry a row of `features`."""
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
  if jnp.shape(array) != expected:
    raise ValueError(f"{name}: expected shape {expected}, got {jnp.shape(array)}")


def check_integer(name: str, array: Any) -> None:
  """Raises TypeError unless `array` has an integer dtype (class labels)."""
  dtype = jnp.result_type(array)
  if not jnp.issubdtype(dtype, jnp.integer):
    raise TypeError(f"{name}: expected integer class labels, got dtype {dtype}")


def check_positive(name: str, value: float) -> None:
  """Raises ValueError unless the Python number `value` is above zero."""
  if not value > 0:
    raise ValueError(f"{name}: expected a number above 0, got {value}")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"{name}: expected one of {listed}, got {value!r}")

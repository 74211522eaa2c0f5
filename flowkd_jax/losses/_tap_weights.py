"""Weights of the terms of a loss over several taps, by the names of the taps."""

import numbers
from collections.abc import Mapping
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax import _taps

Weights = Mapping[str, Array | float] | Sequence[Array | float] | None


def weighted_sum(
  terms: Mapping[str, Float[Array, ""]],
  weights: Mapping[str, Array | float] | None,
) -> Float[Array, ""]:
  """Weighted sum of the terms of a loss.

  Args:
    terms: Scalars by name. The result does not depend on their order, to the last bit.
    weights: Weight of each term, by name. The default is one for each term.

  Raises:
    TypeError: If `terms` or `weights` is not a mapping.
    ValueError: If the names of `weights` are not those of `terms`.
  """
  if not isinstance(terms, Mapping):
    raise TypeError(
      f"terms: expected a mapping of scalars by name, got a {type(terms).__name__}"
    )
  weights = _weight_of_each(list(terms), weights)
  # `jit` sorts the keys of a dictionary. Sorted here too, the sum has the same rounding
  # with and without `jit`.
  names = sorted(terms, key=str)
  return jnp.stack([weights[name] * terms[name] for name in names]).sum()


def named_weights(
  names: Sequence[str],
  weights: Weights,
  student: _taps.Taps,
  pairs: Mapping[str, str] | None,
) -> Mapping[str, Array | float]:
  """Weights by name. A sequence of weights has the order of the sequence of taps.

  Args:
    names: Names of the compared student taps.
    weights: Weights as the caller gave them.
    student: Student taps. Their type says whether they have names and an order.
    pairs: Name of the teacher tap for each name of a student tap, or None.

  Raises:
    TypeError: If only one of taps and weights has names, or a weight is not a number.
    ValueError: If there is not exactly one weight per tap.
  """
  as_dict = getattr(weights, "_asdict", None)  # a named tuple has names
  if as_dict is not None:
    weights = as_dict()
  if weights is None:
    return dict.fromkeys(names, 1.0)
  if isinstance(weights, Mapping):
    if not _taps.are_named("student", student):
      raise TypeError(
        f"weights: expected a sequence of {len(names)}, because the taps are a "
        f"sequence without names, got a mapping of {_taps.listed(weights)}"
      )
    return _weight_of_each(names, weights)
  in_order = isinstance(weights, Sequence) or getattr(weights, "ndim", 0) == 1
  if not in_order or isinstance(student, Mapping) or pairs is not None:
    return _weight_of_each(names, weights)
  if len(weights) != len(names):
    raise ValueError(f"weights: expected {len(names)}, one per tap, got {len(weights)}")
  return _weight_of_each(names, dict(zip(names, weights, strict=True)))


def _weight_of_each(names, weights):
  if weights is None:
    return dict.fromkeys(names, 1.0)
  if not isinstance(weights, Mapping):
    raise TypeError(
      f"weights: expected a weight for each of {_taps.listed(names)}, a mapping for "
      f"taps with names and a sequence for a sequence, got a {type(weights).__name__}"
    )
  if set(weights) != set(names):
    raise ValueError(
      f"weights: expected one for each of {sorted(names, key=str)}, got "
      f"{sorted(weights, key=str)}"
    )
  for name, weight in weights.items():
    if not isinstance(weight, numbers.Number) and getattr(weight, "shape", None) != ():
      raise TypeError(f"weights: expected a number for {name!r}, got {weight!r:.80}")
  return weights

"""Limits of settings: ranges, choices and places of the values of each field.

`fields.setting` takes limits, and `fields.configured` checks them. A number without
limits must still be finite in float32, or fit into 32 bits.
"""

import dataclasses
import numbers
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from flowkd_jax.jobs import places

__all__ = [
  "LARGEST",
  "LARGEST_INTEGER",
  "SMALLEST",
  "Limits",
  "check",
  "check_choice",
  "check_number",
]

LARGEST_INTEGER = 2**31 - 1  # JAX computes integers in 32 bits
# Outside these limits, a number is infinity or zero in float32.
LARGEST, SMALLEST = 3.4028234e38, 1.1754944e-38


class Limits(NamedTuple):
  """Limits of the values of a setting.

  Attributes:
    least: Lower limit, included.
    above: Lower limit, excluded.
    most: Upper limit, included.
    below: Upper limit, excluded.
    choices: Words to choose from; () allows all words.
    may_be_empty: True if a text or a list may be empty. If the default is empty, it
      always may.
    place: Kind of place that a path names, one of `places.KINDS`.
    check_word: `(word, name=flag)`, raises ValueError for an invalid word. For words
      with a parameter, such as `rbf:2`.
  """

  least: float | None = None
  above: float | None = None
  most: float | None = None
  below: float | None = None
  choices: tuple[str, ...] = ()
  may_be_empty: bool = False
  place: str = ""
  check_word: Callable[..., Any] | None = None


def check(config: Any) -> None:
  """Raise ValueError, naming the flag, if a field is outside its limits."""
  for field in dataclasses.fields(config):
    limits = field.metadata["limits"]
    flag, value = f"--{field.name}", getattr(config, field.name)
    if value is None or isinstance(value, bool):
      continue
    if isinstance(value, numbers.Real):
      check_number(flag, value, limits)
    elif value or not (limits.may_be_empty or field.default == type(value)()):
      _check_words(flag, value, limits)


def check_number(flag: str, value: Any, limits: Limits) -> None:
  """Raise ValueError unless a number is finite and within its limits."""
  whole = isinstance(value, numbers.Integral)
  largest = LARGEST_INTEGER if whole else LARGEST
  within = (
    -largest <= value <= largest
    and (limits.least is None or value >= limits.least)
    and (limits.most is None or value <= limits.most)
    and (limits.above is None or value - limits.above >= SMALLEST)
    and (limits.below is None or value < limits.below)
  )
  if within:  # False for NaN, as all comparisons with NaN are false.
    return
  expected = _range(limits)
  if not -largest <= value <= largest:
    expected += f" and at most {largest}" if whole else " and finite in float32"
  elif limits.above is not None and limits.above < value < limits.above + SMALLEST:
    expected += " in float32"
  raise ValueError(f"{flag}: expected {expected}, got {value}")


def _range(limits: Limits) -> str:
  lower = limits.above if limits.least is None else limits.least
  upper = limits.below if limits.most is None else limits.most
  if lower is None:
    return "a number"
  if upper is not None:
    opening = "(" if limits.least is None else "["
    closing = ")" if limits.most is None else "]"
    return f"a number in {opening}{lower}, {upper}{closing}"
  if limits.least is None:
    return f"above {lower}"
  return f"{lower} or more" if lower else "0 or above"


def _check_words(flag: str, value: str | tuple[Any, ...], limits: Limits) -> None:
  """Check the words of a text or list: not empty, not repeated, valid."""
  words = (value,) if isinstance(value, str) else value
  if not words or not all(str(word).strip() for word in words):
    found = value if isinstance(value, str) else ",".join(map(str, value))
    known = f", of {', '.join(limits.choices)}" if limits.choices else ""
    raise ValueError(
      f"{flag}: expected a value{known}, got {found!r}; leave the flag out to use the "
      "default"
    )
  twice = dict.fromkeys(str(word) for word in words if words.count(word) > 1)
  if twice:
    raise ValueError(f"{flag}: expected each value once, got {', '.join(twice)} twice")
  for word in words:
    if not isinstance(word, str):
      check_number(flag, word, limits)
    elif limits.choices:
      check_choice(flag, word, limits.choices)
    elif limits.check_word is not None:
      limits.check_word(word, name=flag)
    elif limits.place:
      places.check(flag, word, limits.place)


def check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
  """Raise ValueError unless the value is one of the choices."""
  if value not in choices:
    raise ValueError(f"{flag}: expected one of {', '.join(choices)}, got {value!r}")

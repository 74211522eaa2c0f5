"""Parsers of losses with weights, options and taps, from a flag or a file.

A flag holds NAME:WEIGHT, separated by commas. Options follow the name in parentheses,
taps in brackets. A weight or a numeric option may be a schedule:

    kd:0.9,pkt:300
    kd(temperature=2,standardize=true):9
    pkt[pooled]:300,at(reduction=elements)[stage_1:stage_1,stage_2:stage_2]:1000
    dkd(beta=8):warmup(1,20)

A TOML file has one table for each loss:

    [[losses]]
    loss = "dkd"
    weight = {schedule = "warmup", value = 1, epochs = 20}
    options = {beta = 8, temperature = 4}
    taps = "pooled"

Both are parsed to a list of such tables, which `config.json` stores.
"""

import inspect
import math
import re
import tomllib
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowkd_jax import methods
from flowkd_jax import schedules

__all__ = [
  "SCHEDULES",
  "Tables",
  "of_file",
  "of_flag",
  "terms",
]

Tables = list[dict[str, Any]]
SCHEDULES = {
  "warmup": schedules.warmup,
  "cosine": schedules.cosine,
  "critical_period": schedules.critical_period,
}
_KEYS = ("loss", "weight", "options", "taps")
_FORM = (
  "expected NAME:WEIGHT, separated by commas, with options and taps as in "
  "kd(temperature=2):9,pkt[pooled:pooled]:300"
)
_WORDS = {"true": True, "false": False, "none": None}


def of_flag(flag: str, text: str) -> Tables:
  """Parse the losses in the value of a flag.

  Args:
    flag: The flag with its dashes, for messages.
    text: Value of the flag.

  Raises:
    ValueError: If the text is malformed, or a loss, option or schedule is unknown.
  """
  reader = _Reader(flag, text)
  tables = [_loss(reader)]
  while reader.takes(","):
    tables.append(_loss(reader))
  if reader.rest:
    reader.refuse()
  return _checked(flag, tables)


def of_file(flag: str, path: str) -> Tables:
  """Parse the losses in a TOML file; arguments and errors as in `of_flag`."""
  try:
    content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
    raise ValueError(f"{flag}: cannot read {path} as TOML ({error})") from None
  tables = content.get("losses")
  if [*content] != ["losses"] or not isinstance(tables, list) or not tables:
    raise ValueError(
      f"{flag}: expected tables [[losses]] and nothing else in {path}, got "
      f"{', '.join(content) or 'an empty file'}"
    )
  complete = []
  for number, table in enumerate(tables, start=1):
    if not isinstance(table, dict) or "loss" not in table or {*table} - {*_KEYS}:
      raise ValueError(
        f"{flag}: table {number} of {path}: expected the keys {', '.join(_KEYS)}, of "
        f"which loss is needed, got {table}"
      )
    if isinstance(table.get("taps"), dict):
      table["taps"] = [[*pair] for pair in table["taps"].items()]
    complete.append({"weight": 1.0, "options": {}, "taps": ""} | table)
  return _checked(flag, complete)


def terms(tables: Tables, steps_per_epoch: int) -> list[methods.LossTerm]:
  """Make the terms of `methods.combined_losses`.

  Args:
    tables: Losses from `of_flag` or `of_file`.
    steps_per_epoch: Steps per epoch; schedules count epochs.
  """

  def scheduled(value: Any) -> Any:
    if isinstance(value, list):
      return [scheduled(each) for each in value]
    if not isinstance(value, Mapping):
      return value
    options = dict(value)
    make = SCHEDULES[options.pop("schedule")]
    return make(**options, steps_per_epoch=steps_per_epoch)

  return [
    methods.LossTerm(
      table["loss"],
      scheduled(table["weight"]),
      {name: scheduled(value) for name, value in table["options"].items()},
      table["taps"] if isinstance(table["taps"], str) else _pairs(table["taps"]),
    )
    for table in tables
  ]


def _pairs(taps):
  return tuple((ours, theirs) for ours, theirs in taps)


def _checked(flag: str, tables: Tables) -> Tables:
  for table in tables:
    try:
      loss = methods.loss_by_name(str(table["loss"]))
      if not isinstance(table["options"], dict):
        raise ValueError(f"expected options as a table, got {table['options']}")
      loss.check_options(table["options"])
      _check_weight(table["weight"])
      if table["taps"] and not loss.taps:
        raise ValueError(
          f"expected no taps, as it compares logits, got {table['taps']}"
        )
      for name, value in table["options"].items():
        for each in value if isinstance(value, list) else [value]:
          if isinstance(each, Mapping):
            _check_number(each, f"option {name}")
      _check_taps(table["taps"])
    except (TypeError, ValueError) as error:
      reason = str(error).removeprefix("losses: ")
      raise ValueError(f"{flag}: {table['loss']}: {reason}") from None
  return tables


def _check_weight(value: Any) -> None:
  _check_number(value, "a weight")
  if not isinstance(value, Mapping) and not 0 <= value < math.inf:
    raise ValueError(f"expected a weight of 0 or above, got {value}")


def _check_number(value: Any, what: str) -> None:
  """Raise ValueError unless a value is a number or a valid schedule."""
  if isinstance(value, Mapping):
    options = dict(value)
    name = options.pop("schedule", None)
    if not isinstance(name, str) or name not in SCHEDULES:
      raise ValueError(f"expected a schedule of {', '.join(SCHEDULES)}, got {name}")
    known = [*inspect.signature(SCHEDULES[name]).parameters]
    known.remove("steps_per_epoch")
    if {*options} - {*known}:
      raise ValueError(
        f"{name}: expected {', '.join(known)}, got {', '.join(map(str, options))}"
      )
    by_step = options.get("by_step", False)
    if not isinstance(by_step, bool):  # a string such as "no" would count as true
      raise ValueError(f"{name}: by_step: expected true or false, got {by_step!r}")
    SCHEDULES[name](**options)
  elif isinstance(value, bool) or not isinstance(value, int | float):
    raise ValueError(f"expected {what} that is a number or a schedule, got {value}")


def _check_taps(taps: Any) -> None:
  if isinstance(taps, str):
    if taps and not methods.is_tap_role(taps):
      raise ValueError(
        f"expected taps as student_tap:teacher_tap, or one of "
        f"{', '.join(methods.TAP_ROLES)}, got {taps}"
      )
    return
  if not isinstance(taps, Sequence) or not all(
    isinstance(pair, Sequence) and [*map(type, pair)] == [str, str] for pair in taps
  ):
    raise ValueError(f"expected taps as pairs of names, got {taps}")


class _Reader:
  """Reader of a text from left to right."""

  def __init__(self, flag: str, text: str):
    self.flag, self.text = flag, text
    self.rest = text.lstrip()

  def takes(self, mark: str) -> bool:
    """Skip a mark if the rest begins with it; return whether it does."""
    found = self.rest.startswith(mark)
    if found:
      self.rest = self.rest[len(mark) :].lstrip()
    return found

  def needs(self, mark: str) -> None:
    """Skip a mark; raise ValueError if the rest does not begin with it."""
    if not self.takes(mark):
      self.refuse()

  def word(self, end: str) -> str:
    """Read the text before the next character of `end`."""
    word = re.match(f"[^{re.escape(end)}]*", self.rest)
    found = word[0] if word else ""
    self.rest = self.rest[len(found) :].lstrip()
    if not found.strip():
      self.refuse()
    return found.strip()

  def refuse(self) -> None:
    """Raise ValueError with the position of the reader."""
    place = len(self.text) - len(self.rest)
    raise ValueError(
      f"{self.flag}: {_FORM}; got {self.text!r}, where character {place + 1} is "
      f"{self.rest[:1]!r}"
      if self.rest
      else f"{self.flag}: {_FORM}; got {self.text!r}"
    )


def _loss(reader: _Reader) -> dict[str, Any]:
  table = {"loss": reader.word(":,()[]="), "weight": 1.0, "options": {}, "taps": ""}
  while reader.rest[:1] in ("(", "["):
    if table["options"] if reader.rest[0] == "(" else table["taps"]:
      reader.refuse()  # given twice
    if reader.takes("("):
      table["options"] = _named(reader, _arguments(reader))
    elif reader.takes("["):
      table["taps"] = _taps(reader)
  if reader.takes(":"):
    table["weight"] = _value(reader)
  return table


def _named(reader: _Reader, arguments: list[tuple[str, Any]]) -> dict[str, Any]:
  if not all(name for name, _ in arguments):
    raise ValueError(
      f"{reader.flag}: expected options as NAME=VALUE, got {reader.text!r}"
    )
  return _once(reader, arguments)


def _once(reader: _Reader, arguments: list[tuple[str, Any]]) -> dict[str, Any]:
  """Arguments by name; ValueError if a name occurs twice."""
  found = dict(arguments)
  names = [name for name, _ in arguments]
  twice = [name for name in found if names.count(name) > 1]
  if twice:
    raise ValueError(
      f"{reader.flag}: expected each option once, got {twice[0]} several times in "
      f"{reader.text!r}"
    )
  return found


def _arguments(reader: _Reader) -> list[tuple[str, Any]]:
  """Read arguments, `name=value` or `value`, up to the closing parenthesis."""
  found: list[tuple[str, Any]] = []
  while not reader.takes(")"):
    if found:
      reader.needs(",")
    named = re.match(r"\s*([A-Za-z_]\w*)\s*=", reader.rest)
    if named:
      reader.rest = reader.rest[named.end() :].lstrip()
    found.append((named[1] if named else "", _value(reader)))
  return found


def _value(reader: _Reader) -> Any:
  """Read a number, a word, a list in brackets or a schedule."""
  if reader.takes("["):
    values = []
    while not reader.takes("]"):
      if values:
        reader.needs(",")
      values.append(_value(reader))
    return values
  word = reader.word(",()[]=")
  if reader.takes("("):
    return _schedule(reader, word, _arguments(reader))
  return _plain(word)


def _schedule(reader: _Reader, name: str, arguments: list[tuple[str, Any]]) -> Any:
  if name not in SCHEDULES:
    raise ValueError(
      f"{reader.flag}: expected a schedule of {', '.join(SCHEDULES)}, got {name}(...)"
    )
  parameters = inspect.signature(SCHEDULES[name]).parameters.values()
  order = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
  unnamed = [value for given, value in arguments if not given]
  if len(unnamed) > len(order):
    raise ValueError(
      f"{reader.flag}: {name}: expected {', '.join(order)} without a name, and other "
      f"options as NAME=VALUE, got {len(unnamed)} numbers without a name"
    )
  named = [
    (given or order[place], value) for place, (given, value) in enumerate(arguments)
  ]
  return {"schedule": name} | _once(reader, named)


def _plain(word: str) -> Any:
  if word.lower() in _WORDS:
    return _WORDS[word.lower()]
  for kind in (int, float):
    try:
      return kind(word)
    except ValueError:
      continue
  return word


def _taps(reader: _Reader) -> str | list[list[str]]:
  pairs: list[list[str]] = []
  while not reader.takes("]"):
    if pairs:
      reader.needs(",")
    pairs.append([reader.word(",:()[]=")])
    if reader.takes(":"):
      pairs[-1].append(reader.word(",:()[]="))
  if pairs and methods.is_tap_role(pairs[0][0]) and len(pairs) == len(pairs[0]) == 1:
    return pairs[0][0]
  # Without a teacher tap, a student tap is paired with the tap of the same name.
  return [pair if len(pair) == 2 else pair * 2 for pair in pairs]

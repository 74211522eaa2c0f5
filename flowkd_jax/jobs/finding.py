"""Findings of `flowkd doctor`: the result of one check, with its severity."""

import enum
from typing import NamedTuple

__all__ = ["Finding", "Level"]


class Level(enum.Enum):
  """Severity of a finding."""

  FINE = "ok"
  SKIPPED = "not yet"
  WARNING = "warning"
  WRONG = "wrong"


class Finding(NamedTuple):
  """Result of one check, as a sentence with a severity."""

  level: Level
  text: str

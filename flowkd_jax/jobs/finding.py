"""Findings of `flowkd doctor`: a sentence about one thing, and how bad it is."""

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
  """A sentence about one thing."""

  level: Level
  text: str

"""Cases of a trained network: checkpoints of its state, retrieval by its features."""

import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.benchmarks.growth.case import Case
from flowkd_jax import evaluation
from flowkd_jax import train

Work = Callable[[], Any]
_NUMBERS = 1000  # of an array
_CLASSES, _WIDTH = 10, 64


def _checkpoint(count: int) -> Work:
  """A checkpoint of a state of so many arrays, until it is written."""
  rng = np.random.default_rng(0)
  state = {f"array_{i}": rng.standard_normal(_NUMBERS) for i in range(count)}
  checkpoints = train.Checkpoints(tempfile.mkdtemp())

  def save_and_wait():
    checkpoints.save(1, state, {})
    return checkpoints.latest

  return save_and_wait


def _retrieval(count: int) -> Work:
  """Retrieval from a database of so many rows by a fifth as many queries."""
  rng = np.random.default_rng(0)

  def features(rows):
    return rng.standard_normal((rows, _WIDTH), np.float32), np.arange(rows) % _CLASSES

  database, queries = features(count), features(count // 5)
  return lambda: evaluation.retrieval(*database, *queries, ranks=(1,))


CASES: Mapping[str, Case] = {
  "checkpoint": Case(_checkpoint, (100, 400, 1600), "arrays", tiny=1),
  "retrieval": Case(_retrieval, (5000, 10_000, 20_000), "rows and queries", tiny=100),
}

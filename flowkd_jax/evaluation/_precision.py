"""Precision and recall of ranked lists, from the ranks of the relevant rows."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from jaxtyping import Int

RECALL_LEVELS = np.linspace(0, 1, 21)

# The authors' levels, with the rounding errors that decide between two ranks.
_AUTHORS_COARSE = np.arange(0, 1.01, 0.1)
_AUTHORS_FINE = np.arange(0, 1.01, 0.05)


class Sums(NamedTuple):
  """Sums over queries, except that `hits` counts per rank.

  Attributes:
    average: Area under the precision-recall steps.
    curve: Interpolated precision at `RECALL_LEVELS`.
    hits: Number of queries with a relevant row at each rank of the database.
    firsts: Number of queries with their first relevant row at each rank.
    reciprocal: Inverse rank of the first relevant row.
    r_precision: Share of relevant rows among the first R, where R is their number.
    average_at_r: Area under the precision-recall steps of the first R ranks.
    authors_average: The authors' 11-point average precision.
    authors_curve: The authors' precision at `RECALL_LEVELS`.
    authors_head: The authors' precision at the first ranks.
  """

  average: float
  curve: Float[np.ndarray, " levels"]
  hits: Int[np.ndarray, " database"]
  firsts: Int[np.ndarray, " database"]
  reciprocal: float
  r_precision: float
  average_at_r: float
  authors_average: float
  authors_curve: Float[np.ndarray, " levels"]
  authors_head: Float[np.ndarray, " head"]


def sum_precisions(
  positions: Int[np.ndarray, "block relevant"],
  lengths: Int[np.ndarray, " block"],
  database: int,
  head: int,
) -> Sums:
  """Sums over queries that have equally many relevant rows.

  Args:
    positions: Ascending 0-based ranks of the relevant rows.
    lengths: Number of ranks that the authors' code interpolates, for each query.
    database: Number of ranks.
    head: Maximum of all `lengths`.
  """
  relevant = positions.shape[1]
  precision = np.arange(1, relevant + 1) / (positions + 1)
  early = positions < relevant
  # Precision increases only at relevant ranks, so every maximum is at one of them.
  best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
  authors_head = _authors_head(positions, lengths, head)
  coarse = _authors_levels(positions, authors_head, _AUTHORS_COARSE)
  fine = _authors_levels(positions, authors_head, _AUTHORS_FINE)
  return Sums(
    average=precision.mean(axis=1).sum(),
    curve=best[:, _first_reaching(relevant)].sum(axis=0),
    hits=np.bincount(positions.ravel(), minlength=database),
    firsts=np.bincount(positions[:, 0], minlength=database),
    reciprocal=precision[:, 0].sum(),
    r_precision=early.mean(axis=1).sum(),
    average_at_r=(precision * early).mean(axis=1).sum(),
    authors_average=coarse.mean(axis=1).sum(),
    authors_curve=fine.sum(axis=0),
    authors_head=authors_head.sum(axis=0),
  )


def _first_reaching(relevant: int) -> Int[np.ndarray, " levels"]:
  """Index of the first relevant row at which recall reaches each level."""
  steps = len(RECALL_LEVELS) - 1
  needed = -(-np.arange(steps + 1) * relevant // steps)  # rounded up, exact
  return np.maximum(needed, 1) - 1


def _authors_head(
  positions: Int[np.ndarray, "block relevant"],
  lengths: Int[np.ndarray, " block"],
  head: int,
) -> Float[np.ndarray, "block head"]:
  """Precision at the first ranks, interpolated over `lengths` ranks only."""
  near = positions[:, :head]
  hits = np.zeros((len(positions), head))
  rows, columns = np.nonzero(near < head)
  hits[rows, near[rows, columns]] = 1
  precision = hits.cumsum(axis=1) / np.arange(1, head + 1)
  inside = np.arange(head) < lengths[:, None]
  best = np.where(inside, precision, 0)[:, ::-1]
  best = np.maximum.accumulate(best, axis=1)[:, ::-1]
  return np.where(inside, best, precision)


def _authors_levels(
  positions: Int[np.ndarray, "block relevant"],
  head: Float[np.ndarray, "block head"],
  levels: Float[np.ndarray, " levels"],
) -> Float[np.ndarray, "block levels"]:
  """Precision at the first rank whose recall is nearest to each level."""
  found = _authors_nearest(positions.shape[1], tuple(levels))
  index = np.where(found > 0, positions[:, np.maximum(found, 1) - 1], 0)
  clipped = np.minimum(index, head.shape[1] - 1)
  interpolated = np.take_along_axis(head, clipped, axis=1)
  return np.where(index < head.shape[1], interpolated, found / (index + 1))


@functools.lru_cache(maxsize=1024)
def _authors_nearest(
  relevant: int, levels: tuple[float, ...]
) -> Int[np.ndarray, " levels"]:
  """Numbers of relevant rows whose recall is nearest to each level.

  0 rows stand for rank 1. This is right even if rank 1 is relevant, as its recall is
  then the nearest one.
  """
  recall = np.arange(relevant + 1) / relevant
  return np.array([np.abs(recall - level).argmin() for level in levels])

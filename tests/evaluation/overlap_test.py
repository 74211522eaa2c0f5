"""Detection of queries that would find themselves."""

import numpy as np
import pytest

from flowkd_jax.evaluation import _overlap
from flowkd_jax.evaluation._rows import Rows


def _rows(queries):
  database = np.arange(12, dtype=np.float32).reshape(6, 2)
  classes = np.arange(6) % 2
  found = queries(database)
  return Rows(database, classes, found, classes[: len(found)], num_classes=2)


def test_queries_that_are_the_database_are_refused():
  with pytest.raises(ValueError, match="queries: expected other examples than the"):
    _overlap.check_apart(_rows(lambda database: database))


def test_queries_of_which_half_are_in_the_database_are_warned_of():
  half = lambda database: np.concatenate([database[:2], database[2:4] + 100])
  with pytest.warns(UserWarning, match="2 of 4 queries are rows of the database"):
    _overlap.check_apart(_rows(half))
  _overlap.check_apart(_rows(lambda database: database[:4] + 100))

"""Orders of examples that no version of NumPy changes."""

import numpy as np
import pytest

from flowkd_jax.data import _order


def test_random_ranks_are_raw_numbers_of_philox():
  ranks = _order.random_ranks(3, 5, 4)
  key = np.array([3, 5], np.uint64)
  np.testing.assert_array_equal(ranks, np.random.Philox(key=key).random_raw(4))
  assert ranks.dtype == np.uint64


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_permutation_visits_every_example_once(count):
  order = _order.permutation(0, 1, count)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_permutation_is_one_per_seed_and_epoch():
  orders = [_order.permutation(*pair, 50) for pair in ((0, 0), (0, 1), (1, 0), (0, 0))]
  np.testing.assert_array_equal(orders[0], orders[3])
  assert not any((orders[0] == other).all() for other in orders[1:3])


def test_permutation_keeps_the_order_of_equal_ranks(monkeypatch):
  ranks = np.array([2, 1, 2, 1, 2] * 10, np.uint64)
  monkeypatch.setattr(_order, "random_ranks", lambda *_: ranks)
  expected = np.argsort(ranks, kind="stable")
  np.testing.assert_array_equal(_order.permutation(0, 0, 50), expected)

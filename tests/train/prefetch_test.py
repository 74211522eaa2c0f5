"""Reading ahead in a thread."""

import threading
import time

import pytest

from flowkd_jax.train import _prefetch


def test_items_come_in_order_and_end():
  with _prefetch.reading_ahead(iter(range(20)), 3) as items:
    assert list(items) == list(range(20))
    assert list(items) == []


def test_thread_reads_no_further_than_asked_for():
  read = []
  with _prefetch.reading_ahead((read.append(i) or i for i in range(100)), 3) as items:
    assert next(items) == 0
    deadline = time.monotonic() + 800
    while len(read) < 5 and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.3)
    assert len(read) == 5  # one taken, three waiting, one in the thread's hands


def test_error_is_raised_where_its_item_is_asked_for():
  def failing():
    yield 1
    raise OSError("the disk is gone")

  with _prefetch.reading_ahead(failing(), 3) as items:
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
      next(items)


def test_reader_who_leaves_ends_thread_and_generator():
  closed = []

  def endless():
    try:
      while True:
        yield 1
    finally:
      closed.append(True)

  before = threading.active_count()
  with _prefetch.reading_ahead(endless(), 2) as items:
    next(items)
  assert closed == [True]
  assert threading.active_count() == before

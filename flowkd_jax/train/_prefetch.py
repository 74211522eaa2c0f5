"""Prefetching of items by a thread."""

import contextlib
import queue
import threading
from collections.abc import Generator
from collections.abc import Iterator
from typing import Any

_PATIENCE = 0.1  # seconds between checks whether the context has ended


@contextlib.contextmanager
def reading_ahead(items: Iterator[Any], most: int) -> Iterator[Iterator[Any]]:
  """Context in which a thread reads up to `most` items of an iterator in advance.

  An error of the iterator is raised when its item is requested. When the context ends,
  the thread ends after the current item and closes the iterator if it is a generator.

  Args:
    items: The iterator; only the thread uses it.
    most: Maximum number of items in the queue.
  """
  waiting: queue.Queue = queue.Queue(most)
  left = threading.Event()
  thread = threading.Thread(
    target=_read, args=(items, waiting, left), name="reading ahead", daemon=True
  )
  thread.start()
  try:
    yield _received(waiting)
  finally:
    left.set()
    thread.join()


def _read(items: Iterator[Any], waiting: queue.Queue, left: threading.Event) -> None:
  last: BaseException = StopIteration()
  try:
    for item in items:
      if not _put(waiting, (item, None), left):
        break
  except BaseException as error:  # noqa: BLE001 (raised again by the reader)
    last = error
  if isinstance(items, Generator):
    items.close()
  _put(waiting, (None, last), left)


def _put(waiting: queue.Queue, entry: Any, left: threading.Event) -> bool:
  """Put an entry into the queue; return False if the context ends first."""
  while not left.is_set():
    with contextlib.suppress(queue.Full):
      waiting.put(entry, timeout=_PATIENCE)
      return True
  return False


def _received(waiting: queue.Queue) -> Iterator[Any]:
  while True:
    item, error = waiting.get()
    if isinstance(error, StopIteration):
      return
    if error is not None:
      raise error
    yield item

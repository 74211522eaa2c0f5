"""Metrics of a run: a JSON object per line, and TensorBoard event files."""

import collections
import json
import logging
import math
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path

import jax
import tensorboardX
from jax.typing import ArrayLike

from flowkd_jax.train import _processes

_LOG = logging.getLogger(__name__)

_MOST_WAITING = 8  # epochs; a disk that is too slow stops the training in the end


class MetricsWriter:
  """Appends to `metrics.jsonl` and writes TensorBoard files for one stage.

  A resumed run may write an epoch again; of equal (stage, epoch) the later counts. Of
  several processes only the first writes.

  A thread writes, in the order of the calls, so that nothing waits for files or for
  numbers that a device has not computed yet. `flush` waits until all is written. An
  error of the thread is raised by the next call.
  """

  def __init__(self, workdir: str | Path, stage: str):
    """Opens the files for appending."""
    self.stage = stage
    self._lines = self._events = None
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="metrics")
    self._waiting: collections.deque[futures.Future[None]] = collections.deque()
    if not _processes.is_first_process():
      return
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "metrics.jsonl"
    # A line that a kill cut short must not swallow the next one.
    cut = path.exists() and path.stat().st_size and not _ends_with_newline(path)
    self._lines = path.open("a", encoding="utf-8")
    if cut:
      self._lines.write("\n")
    self._events = tensorboardX.SummaryWriter(
      logdir=str(workdir / "tensorboard" / stage), flush_secs=10
    )

  def write(self, epoch: int, step: int, metrics: Mapping[str, ArrayLike]) -> None:
    """Has the metrics of an epoch written that ended with `step` updates done.

    Args:
      epoch: The epoch; -1 before the first.
      step: Number of updates done.
      metrics: Numbers, on the host or on a device.

    Raises:
      OSError: If what was to be written before could not be.
    """
    if self._lines is None:
      return
    while self._waiting and (
      self._waiting[0].done() or len(self._waiting) >= _MOST_WAITING
    ):
      self._waiting.popleft().result()
    written = self._thread.submit(self._write, epoch, step, dict(metrics))
    self._waiting.append(written)

  def flush(self) -> None:
    """Waits until everything is written.

    Raises:
      OSError: If something could not be written.
    """
    while self._waiting:
      self._waiting.popleft().result()

  def _write(self, epoch, step, metrics):
    if self._lines is None or self._events is None:
      return
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    record = {"stage": self.stage, "epoch": epoch, "step": step, **finite}
    self._lines.write(json.dumps(record, allow_nan=False) + "\n")
    self._lines.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Writes what waits and closes the files; errors as of `flush`."""
    try:
      self.flush()
    finally:
      self._thread.shutdown()
      for file in (self._lines, self._events):
        if file is not None:
          file.close()

  def __enter__(self):
    return self

  def __exit__(self, kind, *exception):
    try:
      self.close()
    except Exception as error:
      if kind is None:
        raise
      # The exception that ended the run says more.
      _LOG.warning("metrics of stage %s were not written: %s", self.stage, error)


def _ends_with_newline(path: Path) -> bool:
  with path.open("rb") as file:
    file.seek(-1, 2)
    return file.read(1) == b"\n"

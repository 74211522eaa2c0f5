"""Writer of metrics: one JSON object per line, and TensorBoard event files."""

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

_MOST_WAITING = 8  # epochs; beyond, training waits for a disk that is too slow


class MetricsWriter:
  """Writer that appends to `metrics.jsonl` and to TensorBoard files of one stage.

  A resumed run may write an epoch again. Readers must use the last record of each stage
  and epoch. If there are several processes, only the first writes.

  A thread writes in the order of the calls, so that training waits neither for files
  nor for values that a device has not computed yet. `flush` waits until everything is
  written. An error of the thread is raised by the next call.
  """

  def __init__(self, workdir: str | Path, stage: str):
    """Open the files for appending."""
    self.stage = stage
    self._lines = self._events = None
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="metrics")
    self._waiting: collections.deque[futures.Future[None]] = collections.deque()
    if not _processes.is_first_process():
      return
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "metrics.jsonl"
    # A killed process may have left an incomplete line: end it before the next record.
    cut = path.exists() and path.stat().st_size and not _ends_with_newline(path)
    self._lines = path.open("a", encoding="utf-8")
    if cut:
      self._lines.write("\n")
    self._events = tensorboardX.SummaryWriter(
      logdir=str(workdir / "tensorboard" / stage), flush_secs=10
    )

  def write(self, epoch: int, step: int, metrics: Mapping[str, ArrayLike]) -> None:
    """Queue the metrics of an epoch for writing.

    Args:
      epoch: Number of the epoch; -1 before the first.
      step: Number of updates done at the end of the epoch.
      metrics: Numbers, on the host or on a device.

    Raises:
      OSError: If earlier metrics could not be written.
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
    """Wait until everything is written.

    Raises:
      OSError: If metrics could not be written.
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
    """Flush and close the files; errors are those of `flush`."""
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
      # Not raised: it would hide the exception that ended the run.
      _LOG.warning("metrics of stage %s were not written: %s", self.stage, error)


def _ends_with_newline(path: Path) -> bool:
  with path.open("rb") as file:
    file.seek(-1, 2)
    return file.read(1) == b"\n"

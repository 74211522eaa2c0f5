"""Metrics of a run: a JSON object per line, and TensorBoard event files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import tensorboardX

from flowkd_jax.train import _processes


class MetricsWriter:
  """Appends to `metrics.jsonl` and writes TensorBoard files for one stage.

  A resumed run may write an epoch again; of equal (stage, epoch) the later counts. Of
  several processes only the first writes.
  """

  def __init__(self, workdir: str | Path, stage: str):
    """Opens the files for appending."""
    self.stage = stage
    self._lines = self._events = None
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

  def write(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics of an epoch that ended with `step` updates done."""
    if self._lines is None or self._events is None:
      return
    values = {name: float(value) for name, value in metrics.items()}
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    record = {"stage": self.stage, "epoch": epoch, "step": step, **finite}
    self._lines.write(json.dumps(record, allow_nan=False) + "\n")
    self._lines.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes and closes the files."""
    for file in (self._lines, self._events):
      if file is not None:
        file.close()

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()


def _ends_with_newline(path: Path) -> bool:
  with path.open("rb") as file:
    file.seek(-1, 2)
    return file.read(1) == b"\n"

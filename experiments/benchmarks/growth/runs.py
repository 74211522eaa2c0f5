"""Cases of data sets and of reports of many runs."""

import json
import math
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.growth.case import Case
from flowkd_jax import data
from flowkd_jax import report

Work = Callable[[], Any]
_STAGES, _TAPS = ("teacher", "student"), ("block_1", "block_2", "dense")


def _report(count: int) -> Work:
  """The page of so many runs of 50 epochs that differ in their seed."""
  folder = Path(tempfile.mkdtemp())
  for seed in range(count):
    _write_run(folder / f"run_{seed}", seed)
  return lambda: report.report_page([folder / f"run_{seed}" for seed in range(count)])


def _write_run(folder: Path, seed: int) -> None:
  entries = [
    {
      "stage": stage,
      "epoch": epoch,
      "loss": math.exp(-epoch / 10),
      "test_accuracy": 1 - math.exp(-epoch / 10),
      **{f"qmi/cosine/{tap}": epoch / 1000 for tap in _TAPS},
      **{f"loss/{tap}": math.exp(-epoch / 10) for tap in _TAPS},
      **{f"weight/{tap}": 1.0 for tap in _TAPS},
    }
    for stage in _STAGES
    for epoch in range(50)
  ]
  folder.mkdir()
  lines = [json.dumps(entry) for entry in entries]
  (folder / "metrics.jsonl").write_text("\n".join(lines))
  (folder / "config.json").write_text(json.dumps({"seed": seed}))


def _normalization(count: int) -> Work:
  """Mean and deviation of a data set whose values are not known."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
  split = data.Split("made", "train", images, np.zeros(count, np.int32), ("a",))
  return lambda: data.normalization("made", split)


CASES: Mapping[str, Case] = {
  "report": Case(_report, (10, 20, 50), "runs", tiny=1),
  "normalization": Case(_normalization, (5000, 20_000, 80_000), "images"),
}

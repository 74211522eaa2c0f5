"""The lines and events of a run."""

import json

from flowkd_jax import train


def test_metrics_are_appended_a_line_per_epoch(tmp_path):
  for epoch in (0, 1):
    with train.MetricsWriter(tmp_path, "teacher") as metrics:
      metrics.write(epoch, 10 * epoch, {"loss": 0.5, "bad": float("nan")})
  records = [
    json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  assert records[1] == {
    "stage": "teacher",
    "epoch": 1,
    "step": 10,
    "loss": 0.5,
    "bad": None,
  }
  assert list((tmp_path / "tensorboard" / "teacher").glob("events*"))


def test_line_that_a_kill_cut_short_does_not_swallow_the_next(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"stage": "a", "ep')
  with train.MetricsWriter(tmp_path, "b") as metrics:
    metrics.write(0, 1, {"loss": 1.0})
  last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
  assert json.loads(last)["stage"] == "b"

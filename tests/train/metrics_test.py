"""The lines and events of a run."""

import json

import jax.numpy as jnp
import pytest

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


def test_metrics_on_a_device_are_written_in_order_by_a_thread(tmp_path):
  with train.MetricsWriter(tmp_path, "a") as metrics:
    for epoch in range(20):
      metrics.write(epoch, epoch, {"loss": jnp.float32(epoch) / 4})
    metrics.flush()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["loss"] for line in lines] == [i / 4 for i in range(20)]


def _fail(writer, error=None):
  with writer:
    writer.write(0, 0, {"loss": None})
    if error is not None:
      raise error


def test_errors_of_the_thread_are_raised_unless_another_is_on_its_way(tmp_path, caplog):
  with pytest.raises(TypeError, match="float"):
    _fail(train.MetricsWriter(tmp_path, "a"))
  with pytest.raises(KeyError):
    _fail(train.MetricsWriter(tmp_path, "a"), KeyError())
  assert "metrics of stage a were not written" in caplog.text

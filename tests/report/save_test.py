"""All pictures of a work directory."""

import json
import logging
import math

import numpy as np
import pytest
from PIL import Image

from flowkd_jax import report


@pytest.mark.slow
def test_pictures_survive_one_epoch_and_diverged_losses(tmp_path):
  entry = {"stage": "mine", "epoch": 0, "loss": math.nan, "qmi/cosine/dense": 0.0}
  entry |= {"loss/dense": math.nan, "weight/dense": 1, "test_accuracy": None}
  (tmp_path / "metrics.jsonl").write_text(json.dumps(entry))
  assert len(report.save_pictures(tmp_path)) == 3


@pytest.mark.slow
def test_save_pictures_writes_pngs(workdir):
  paths = report.save_pictures(workdir)
  names = ["training", "flow", "loss", "diagnostics", "precision_recall", "sizes"]
  assert paths == [workdir / "pictures" / f"{name}.png" for name in names]
  for path in paths:
    pixels = np.array(Image.open(path).convert("L"))
    assert pixels.shape[1] == (1200 if path.stem == "sizes" else 1800)
    assert pixels.shape[0] > 700
    assert 0.01 < (pixels < 230).mean() < 0.2


@pytest.mark.slow
def test_save_pictures_of_running_job_skips_what_is_not_there(
  tmp_path, metrics, caplog
):
  lines = [json.dumps(e) + "\n" for e in metrics if e["stage"] == "student_labels"]
  (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"stage": "aux')
  with caplog.at_level(logging.INFO):
    paths = report.save_pictures(tmp_path)
  assert [path.stem for path in paths] == ["training", "flow", "diagnostics"]
  assert "loss.png: metrics: expected losses by tap" in caplog.text
  assert "precision_recall.png: results: expected retrieval" in caplog.text


@pytest.mark.slow
def test_save_pictures_of_evaluation_alone(workdir):
  (workdir / "metrics.jsonl").unlink()
  assert [path.stem for path in report.save_pictures(workdir)] == [
    "precision_recall",
    "sizes",
  ]


def test_save_pictures_rejects_other_folders(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
    report.save_pictures(tmp_path)
  assert not list(tmp_path.iterdir())

import json
import logging

import pytest

from flowkd_jax import report


def _write(path, *lines):
  path.write_text("".join(lines))
  return path


def _line(stage="student", epoch=0, **values):
  return json.dumps({"stage": stage, "epoch": epoch, **values}) + "\n"


def test_read_metrics_takes_work_directory_or_file(workdir, metrics):
  assert report.read_metrics(workdir) == metrics
  assert report.read_metrics(str(workdir / "metrics.jsonl")) == metrics


def test_read_metrics_skips_cut_line_with_warning(tmp_path, caplog):
  file = _write(tmp_path / "metrics.jsonl", _line(loss=0.5), '{"stage": "student", "ep')
  with caplog.at_level(logging.WARNING):
    entries = report.read_metrics(file)
  assert entries == [{"stage": "student", "epoch": 0, "loss": 0.5}]
  assert "skipped line 2, which is cut off" in caplog.text


def test_read_metrics_of_a_job_killed_in_its_first_line_is_empty(tmp_path):
  assert report.read_metrics(_write(tmp_path / "metrics.jsonl", '{"sta')) == []


def test_read_metrics_finds_entry_written_behind_cut_line(tmp_path):
  cut = _line(epoch=1, loss=0.4)[:20]
  file = _write(tmp_path / "m.jsonl", _line(), cut + _line(epoch=1), _line(epoch=2))
  assert [entry["epoch"] for entry in report.read_metrics(file)] == [0, 1, 2]


def test_read_metrics_later_line_counts_after_resume(tmp_path):
  file = _write(
    tmp_path / "metrics.jsonl",
    _line(epoch=0, loss=3.0),
    _line(epoch=1, loss=2.0),
    _line(stage="teacher", epoch=1, loss=9.0),
    _line(epoch=1, loss=1.0),
  )
  losses = [(e["stage"], e["epoch"], e["loss"]) for e in report.read_metrics(file)]
  assert losses == [("student", 0, 3.0), ("student", 1, 1.0), ("teacher", 1, 9.0)]


def test_read_metrics_tells_the_networks_of_a_stage_apart(tmp_path):
  measured = {"one/test_accuracy": 0.5, "two/test_accuracy": 0.6, "two/qmi/cosine/a": 1}
  own = {"loss": 2.0, "loss/labels": 1.0, "qmi/cosine/test_accuracy": 3.0}
  file = _write(tmp_path / "m.jsonl", _line("both", 3, step=7, **measured, **own))
  position = {"epoch": 3, "step": 7}
  assert report.read_metrics(file) == [
    {"stage": "both", **position, **own},
    {"stage": "both/one", **position, "test_accuracy": 0.5},
    {"stage": "both/two", **position, "test_accuracy": 0.6, "qmi/cosine/a": 1},
  ]


@pytest.mark.parametrize("read", [report.read_metrics, report.read_results])
def test_reading_says_which_file_is_missing(read, tmp_path):
  with pytest.raises(FileNotFoundError, match="found nothing; pass the folder"):
    read(tmp_path)


def test_read_metrics_rejects_other_files(tmp_path):
  file = _write(tmp_path / "metrics.jsonl", "epoch,loss\n", "0,2.3\n", '{"a": 1}\n')
  with pytest.raises(ValueError, match="expected lines such as .* got 'epoch,loss'"):
    report.read_metrics(file)


def test_read_results_gives_networks_in_order(workdir, results):
  assert report.read_results(workdir) == results


@pytest.mark.parametrize(
  "text", ["[1]", '{"networks": {}}', '{"networks": [{"title": 1}]}']
)
def test_read_results_rejects_other_content(text, tmp_path):
  with pytest.raises(ValueError, match='expected {"networks"'):
    report.read_results(_write(tmp_path / "results.json", text))


@pytest.mark.parametrize(
  "text", ["", '{"netw', 2000 * "[", '{"networks": [], "sha256": "0"}', "\ufeff{}"]
)
def test_read_results_names_damaged_files(text, tmp_path):
  with pytest.raises(ValueError, match=r"results\.json is damaged: .*; run the job"):
    report.read_results(_write(tmp_path / "results.json", text))


def test_read_metrics_skips_damaged_lines(tmp_path, caplog):
  file = _write(tmp_path / "metrics.jsonl", _line(), 3000 * "[" + "\n", _line(epoch=1))
  assert [entry["epoch"] for entry in report.read_metrics(file)] == [0, 1]
  assert "skipped line 2, which is cut off or damaged" in caplog.text

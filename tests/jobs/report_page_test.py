"""The command that writes the page of several runs."""

import json

import pytest

from flowkd_jax.jobs import report_page


@pytest.fixture
def workdir(tmp_path):
  entry = {"stage": "student", "epoch": 0, "step": 1, "loss": 0.25}
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
  return tmp_path / "run"


def test_page_is_written_into_the_first_work_directory(workdir, capsys):
  report_page.run(report_page.configure(workdirs=(str(workdir),)))
  assert (workdir / "report.html").read_text().startswith("<!doctype html>")
  assert capsys.readouterr().out == f"{workdir / 'report.html'}\n"


def test_page_is_written_where_output_says(workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(report_page.report, "report_page", lambda folders: str(folders))
  output = tmp_path / "new" / "page.html"
  config = report_page.configure(workdirs=(str(workdir),), output=str(output))
  report_page.run(config)
  assert output.read_text() == str((str(workdir),))
  assert not (workdir / "report.html").exists()


def test_work_directories_have_to_be_given_and_to_exist():
  with pytest.raises(ValueError, match="--workdirs: expected at least one"):
    report_page.configure()
  with pytest.raises(ValueError, match="--workdirs: expected a folder"):
    report_page.configure(workdirs=("nowhere",))

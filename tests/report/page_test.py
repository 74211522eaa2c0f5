"""The HTML page of work directories."""

import html.parser
import json
import shutil

import pytest

from flowkd_jax import report
from flowkd_jax.report import _gallery


class _Reader(html.parser.HTMLParser):
  """Cells of the tables, headings, and what the page would load."""

  def __init__(self, text):
    super().__init__()
    self.rows, self.headings, self.sources, self.open = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    if tag not in ("img", "meta"):
      self.open.append(tag)
    if tag == "tr":
      self.rows.append([])
    loaded = dict(attributes)
    self.sources += [loaded[key] for key in ("src", "href") if key in loaded]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] == "h2":
      self.headings.append(data)
    if "td" in self.open or "th" in self.open:
      self.rows[-1].append(data)


@pytest.mark.slow
def test_page_shows_every_network_and_picture_in_one_file(workdir):
  page = _Reader(report.report_page([workdir]))
  assert page.open == []
  assert page.headings == [
    "Run",
    "Networks",
    "Training",
    "Information flow",
    "Matching",
    "Diagnostics",
    "Retrieval",
    "Size and quality",
  ]
  results = report.read_results(workdir)
  networks = page.rows[-len(results) :]
  assert [row[0] for row in networks] == [result["title"] for result in results]
  assert f"{results[-1]['parameters']:,}" in networks[-1]
  assert ["seed", "not recorded"] in page.rows  # as of a run of version 0.1
  assert len(page.sources) == 6
  assert all(source.startswith("data:image/png;base64,") for source in page.sources)


@pytest.mark.slow
def test_page_compares_runs_side_by_side(workdir, tmp_path):
  other = tmp_path / "other <run>"
  shutil.copytree(workdir, other)
  for path, seed in ((workdir, 0), (other, 1)):
    (path / "config.json").write_text(json.dumps({"seed": seed, "batch_size": 8}))
  page = _Reader(report.report_page([workdir, other]))
  assert "Settings that differ" in page.headings
  assert page.rows.count(["seed", "0", "1"]) == 2  # among facts and among settings
  # Equal in both, it has one column.
  assert [row for row in page.rows if row[0] == "batch_size"] == [["batch_size", "8"]]
  runs = {row[0] for row in page.rows if len(row) > 3}
  assert any(name.endswith("other <run>") for name in runs)
  assert len(page.sources) == 12


def _runs(tmp_path, number, **of_run):
  """Small runs whose settings are functions of their number."""
  for run in range(number):
    folder = tmp_path / f"run {run}"
    folder.mkdir()
    entry = {"stage": "student", "epoch": 0, "loss": 1.0 + run}
    (folder / "metrics.jsonl").write_text(json.dumps(entry))
    config = {name: value(run) for name, value in of_run.items()}
    (folder / "config.json").write_text(json.dumps(config))
    yield folder


@pytest.mark.parametrize(
  ("rate", "pictures"),
  [(lambda run: 0.1 * (run % 2), 2), (lambda run: 0.1 * run, 1)],
)
def test_page_of_many_runs_draws_means(rate, pictures, tmp_path, monkeypatch):
  drawn = []

  def draw(metrics, results, styles):
    drawn.append(metrics)
    return report.training_picture(metrics, results, styles=styles)

  one = (_gallery.Picture("training", "Training", draw),)
  monkeypatch.setattr(_gallery, "PICTURES", one)
  folders = [*_runs(tmp_path, 8, seed=lambda run: run, rate=rate)]
  page = _Reader(report.report_page(folders))
  assert len(page.sources) == len(drawn) == pictures
  if pictures == 2:  # one for each rate
    assert [log[0]["loss"] for log in drawn] == [4.0, 5.0]
  else:
    assert drawn[0][0]["greatest loss"] == 8.0
  assert ["run", "seed", "rate"][:2] == page.rows[-9][:2]  # a row per run
  assert page.rows[-1][:2] == ["run 7", "7"]


def test_networks_of_one_name_have_one_color_in_all_runs(tmp_path, monkeypatch):
  seen = []

  def draw(metrics, results, styles):
    seen.append({entry["stage"]: styles[entry["stage"]] for entry in metrics})
    return report.training_picture(metrics, results, styles=styles)

  one = (_gallery.Picture("training", "Training", draw),)
  monkeypatch.setattr(_gallery, "PICTURES", one)
  for folder, stages in (("a", "xy"), ("b", "yz")):
    (tmp_path / folder).mkdir()
    lines = [json.dumps({"stage": s, "epoch": 0, "loss": 1.0}) for s in stages]
    (tmp_path / folder / "metrics.jsonl").write_text("\n".join(lines))
  report.report_page([tmp_path / "a", tmp_path / "b"])
  first, second = seen
  assert first["y"] == second["y"]
  assert len({*first.values(), *second.values()}) == 3


@pytest.mark.slow
def test_page_of_six_runs_shows_each(tmp_path):
  folders = [*_runs(tmp_path, 6, seed=lambda run: 0)]
  page = _Reader(report.report_page(folders))
  assert len(page.sources) == 6


@pytest.mark.slow
def test_page_of_a_running_job_leaves_out_what_is_not_there(workdir, tmp_path):
  running = tmp_path / "running"
  running.mkdir()
  shutil.copy(workdir / "metrics.jsonl", running)
  page = _Reader(report.report_page([running]))
  assert "Retrieval" not in page.headings
  assert "Training" in page.headings


def test_page_of_one_run_says_how_it_was_made(tmp_path, monkeypatch):
  monkeypatch.setattr(_gallery, "PICTURES", ())
  config = {"dataset": "digits", "seed": 4, "kernels": ["cosine"]}
  (folder,) = _runs(
    tmp_path, 1, **{key: lambda run, v=v: v for key, v in config.items()}
  )
  made = {"command": "flowkd train distill --losses='<b>'", "jax": "0.10.2"}
  (folder / "environment.json").write_text(json.dumps({"job": "distill", **made}))
  page = _Reader(report.report_page([folder]))
  assert page.headings == ["Run", "Networks"]
  for row in (
    ["job", "distill"],
    ["data set", "digits"],
    ["seed", "4"],
    ["command", made["command"]],
    ["JAX", "0.10.2"],
    ["Flax", "not recorded"],
    ["kernels", '["cosine"]'],  # of all settings
  ):
    assert row in page.rows


def test_page_tells_settings_that_a_job_does_not_have_from_lost_ones(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(_gallery, "PICTURES", ())
  folders = [*_runs(tmp_path, 3, seed=lambda run: 0)]
  (folders[1] / "config.json").write_text(json.dumps({"seed": 0, "losses": None}))
  (folders[2] / "config.json").unlink()
  page = _Reader(report.report_page(folders))
  assert ["losses", "–", "null", "not recorded"] in page.rows
  assert ["seed", "0", "0", "not recorded"] in page.rows


def test_page_needs_work_directories(tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="workdirs: expected at least one"):
    report.report_page([])
  with pytest.raises(FileNotFoundError, match=r"expected the file metrics.jsonl"):
    report.report_page([tmp_path / "empty"])

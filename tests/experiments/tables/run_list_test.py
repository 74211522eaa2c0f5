"""The list of the runs of a study."""

from experiments.studies import catalogue
from experiments.studies import run as study
from experiments.tables import kept_runs
from experiments.tables import run_list
from experiments.tables import update
from tests.experiments.conftest import configure
from tests.experiments.conftest import unpadded


def test_page_of_the_runs_says_how_each_was_made(fake, tmp_path, monkeypatch):
  (first, *_) = fake.runs
  flags = ("--data_dir={data_dir}", "--networks_from={workdir}/teacher/{seed}")
  other = first._replace(name="other", title="not run", flags=flags)
  study.run(configure(tmp_path))
  monkeypatch.setitem(catalogue.STUDIES, "fake", fake._replace(runs=(first, other)))
  page = tmp_path / "PAGE.md"
  page.write_text("")
  kept = tmp_path / "kept"
  update.run(update.configure(workdir=str(tmp_path), kept=str(kept), page=str(page)))
  text = (kept / "fake" / "README.md").read_text()
  table = unpadded(text)
  row = (
    "| first | {} | abc | 1 x cpu, cores 2, Abacus | python 3.11, jax 1, flax 2 | 2.0 |"
  )
  assert row.format(1) in table
  assert row.format(3) in table
  assert "| other |" not in table
  command = (
    "flowkd train fake_launcher --data_dir=DIR --networks_from=W/fake/teacher/SEED"
  )
  assert f"    {command} --seed=SEED --workdir=W/fake/other/SEED\n" in text


def _environment(**changes):
  made = {"commit": "abc", "device": "1 x cpu", "cores": 2}
  return {**made, "python": "3.11", "jax": "1", "flax": "2", **changes}


def test_summary_names_every_machine_once():
  cpu, gpu = ({"environment": _environment(**c)} for c in ({}, {"device": "1 x gpu"}))
  found = {"first": {"0": {"a": cpu, "b": cpu}, "1": {"a": gpu}}, "second": {}}
  _, line = run_list.summary("fake", found, "Minutes are short.")
  assert line.startswith(
    "Made with 1 x cpu, cores 2; 1 x gpu, cores 2; python 3.11, jax 1, flax 2. Minutes "
    "are short. "
  )
  assert line.endswith("[results/fake](results/fake/README.md).")


def test_arms_that_diverged_are_named_below_the_table():
  stage = {"name": "kd", "title": "KD", "error": "KD: loss not finite in step 3"}
  runs = {
    "first": {
      "10": kept_runs.KeptRun({}, [], [], [stage]),
      "9": kept_runs.KeptRun({}, [], []),
    }
  }
  assert run_list.diverged(runs) == [
    "",
    "Diverged: first, seed 10: KD: loss not finite in step 3.",
  ]
  assert run_list.diverged({"first": {"9": kept_runs.KeptRun({}, [], [])}}) == []


def test_summary_of_nothing_is_empty():
  assert run_list.summary("fake", {"first": {}, "second": {"0": {"a": {}}}}, "") == []

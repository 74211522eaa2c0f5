"""The tables of the results page."""

import json

import pytest

from experiments.studies import bundles
from experiments.studies import catalogue
from experiments.studies import run as study
from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import paired_arms
from experiments.tables import run_list
from experiments.tables import update
from tests.experiments.conftest import configure
from tests.experiments.conftest import unpadded


def test_page_shows_mean_and_deviation_over_seeds(fake, tmp_path):
  study.run(configure(tmp_path))
  page = tmp_path / "PAGE.md"
  page.write_text("Before.\n<!-- table: fake -->\nold\n<!-- end -->\nAfter.\n")
  options = {"kept": str(tmp_path / "kept"), "page": str(page)}
  update.run(update.configure(workdir=str(tmp_path), **options))
  text = page.read_text()
  rows = [unpadded(line) for line in text.splitlines() if line.startswith("|")]
  assert "old" not in text
  assert text.startswith("Before.")
  assert text.endswith("After.\n")
  assert "| *theirs* | | – | 12.50 |" in rows[2]
  # 10 % and 30 %: mean 20, standard deviation sqrt(200).
  assert "| the first | 1, 3 | 20.00 ± 14.14 | 20.00 ± 14.14 | – | | 2 |" in rows[3]
  assert "| the second | 1 | 10.00 |" in rows[4]
  assert rows[4].endswith("| +0.00 | 2 |")  # of seed 1 alone
  assert rows[7].startswith("| the first | 50.00 ± 0.00 |")
  assert rows[7].endswith("| 25.00 ± 0.00 | 75.00 ± 0.00 |")
  assert (
    "Made with 1 x cpu, cores 2, Abacus; python 3.11, jax 1, flax 2. Minutes" in text
  )
  assert "[results/fake](results/fake/README.md)" in text
  update.run(update.configure(**options))
  assert page.read_text() == text


def test_kept_runs_have_the_settings_that_their_launcher_has_now(fake, tmp_path):
  study.run(configure(tmp_path))
  (tmp_path / "PAGE.md").touch()
  options = {"kept": str(tmp_path / "kept"), "page": str(tmp_path / "PAGE.md")}
  update.run(update.configure(workdir=str(tmp_path), **options))
  kept = kept_runs.read(tmp_path / "kept" / "fake")["second"]["1"]
  assert kept.settings == {"auxiliary_checkpoint": "a.npz", "new": [1, 2]}


def test_a_row_may_show_another_network_of_a_launch(fake, tmp_path, monkeypatch):
  beside = spec.Run("beside", "of the same launch", of="first")
  both = fake._replace(runs=(beside, *fake.runs))
  monkeypatch.setitem(catalogue.STUDIES, "fake", both)
  with pytest.raises(ValueError, match="expected one of first, second, got 'beside'"):
    configure(tmp_path, runs=("beside",))
  assert len(study.jobs(configure(tmp_path))) == 3
  study.run(configure(tmp_path))
  update.take_in(tmp_path, tmp_path / "kept")
  runs = kept_runs.read(tmp_path / "kept" / "fake")
  assert set(runs) == {"first", "second"}
  found = paired_arms.networks(both, runs)
  text = unpadded(update.table("fake", both, found))
  assert "| of the same launch | 1, 3 | 20.00 ± 14.14 |" in text
  assert "beside" not in run_list.page("fake", both, found)


def test_what_is_kept_names_no_place_of_the_machine(fake, tmp_path):
  study.run(configure(tmp_path))
  update.take_in(tmp_path, tmp_path / "kept")
  kept = kept_runs.read(tmp_path / "kept" / "fake")["first"]["1"]
  assert kept.settings == {
    "auxiliary_checkpoint": "a.npz",
    "networks_from": "teacher/0",
  }
  assert kept.networks[0]["environment"]["command"] == ""
  assert kept.metrics == [{"stage": "student", "epoch": 0, "loss/dense": 1.5}]


def test_new_runs_are_added_to_those_that_are_kept(fake, tmp_path):
  study.run(configure(tmp_path, seeds=("1",)))
  update.take_in(tmp_path, tmp_path / "kept")
  study.run(configure(tmp_path / "more", seeds=("3",), runs=("first",)))
  update.take_in(tmp_path / "more", tmp_path / "kept")
  kept = kept_runs.read(tmp_path / "kept" / "fake")
  seeds = {name: list(runs) for name, runs in kept.items()}
  assert seeds == {"first": ["1", "3"], "second": ["1"]}


def test_a_comparison_keeps_accuracies_and_the_time_of_an_epoch(
  fake, tmp_path, monkeypatch
):
  table = spec.Comparison((spec.Arm("student", "it"),), (spec.Column("a"),))
  study.run(configure(tmp_path))
  monkeypatch.setitem(catalogue.STUDIES, "fake", fake._replace(comparison=table))
  entries = [
    {"stage": "student", "epoch": n, "seconds": 7.0 * n, "loss/a": 1.0}
    | {"test_accuracy": 0.25 * n}
    for n in (1, 2)
  ]
  first = tmp_path / "fake" / "first" / "1" / "metrics.jsonl"
  first.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
  update.take_in(tmp_path, tmp_path / "kept")
  kept = kept_runs.read(tmp_path / "kept" / "fake")["first"]["1"]
  assert kept.networks[0]["epoch_seconds"] == 7.0
  names = ("stage", "epoch", "test_accuracy")
  assert kept.metrics == [{name: entry[name] for name in names} for entry in entries]


def test_page_says_what_was_not_run(fake):
  found = paired_arms.networks(fake, {})
  assert "| the first | not run |" in unpadded(update.table("fake", fake, found))


def test_page_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(ValueError, match="--page: expected a file to read"):
    update.configure(page=str(tmp_path / "nothing.md"))


def test_replace_block_leaves_other_blocks_and_pages_without_it():
  page = "<!-- table: a -->\n1\n<!-- end -->\n<!-- table: a.b -->\n2\n<!-- end -->\n"
  replaced = update.replace_block(page, "table: a.b", r"\1 new")
  assert replaced == page.replace("2", r"\1 new")
  assert update.replace_block(page, "table: c", "new") == page
  assert update.replace_block(replaced, "table: a.b", "2") == page


def test_bundles_of_a_queue_are_taken_in(fake, tmp_path):
  study.run(configure(tmp_path / "w"))
  for name in ("first/1", "second/1"):
    bundles.add(tmp_path / "out", tmp_path / "w", f"fake/{name}")
  (tmp_path / "PAGE.md").write_text("<!-- table: fake -->\n<!-- end -->\n")
  options = {"kept": str(tmp_path / "kept"), "page": str(tmp_path / "PAGE.md")}
  update.run(update.configure(bundles=str(tmp_path / "out"), **options))
  kept = kept_runs.read(tmp_path / "kept" / "fake")
  assert {name: [*seeds] for name, seeds in kept.items()} == {
    "first": ["1"],
    "second": ["1"],
  }
  assert "| the first | 1 |" in unpadded((tmp_path / "PAGE.md").read_text())

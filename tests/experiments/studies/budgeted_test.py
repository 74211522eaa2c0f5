"""Calls of the driver with a budget."""

import contextlib
import errno
import json
import tempfile

import pytest

from experiments.studies import budgeted
from experiments.studies import bundles
from experiments.studies import catalogue
from experiments.studies import launches
from experiments.studies import queue_rows
from experiments.studies import run as driver
from experiments.studies import run_queue
from experiments.studies import saved_state
from experiments.studies import spec
from experiments.studies import step_costs
from flowkd_jax import train
from flowkd_jax.jobs import environment


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch, tmp_path):
  monkeypatch.setattr(driver, "KEPT", tmp_path / "none")


def _configure(tmp_path, **options):
  given = {"study": "fake", "seeds": ("1", "3"), "budget_minutes": 0.5}
  given |= {"workdir": str(tmp_path / "w"), "out": str(tmp_path / "out")}
  return driver.configure(**given | options)


def test_driver_takes_what_is_not_kept_and_bundles_it(fake, tmp_path, monkeypatch):
  kept = tmp_path / "kept"
  (kept / "fake").mkdir(parents=True)
  known = {"runs": {"first": {"1": {}}}}
  (kept / "fake" / "runs.json").write_text(json.dumps(known))
  monkeypatch.setattr(driver, "KEPT", kept)
  options = {"study": "fake", "seeds": ("1", "3"), "budget_minutes": 0.5}
  first = {"workdir": str(tmp_path / "w"), "out": str(tmp_path / "out")}
  driver.run(driver.configure(**options, **first))
  assert bundles.names(tmp_path / "out") == {"fake/first/3", "fake/second/1"}
  second = {"workdir": str(tmp_path / "v"), "out": str(tmp_path / "next")}
  again = driver.configure(**options, **second, continue_from=str(tmp_path / "out"))
  driver.run(again)
  assert not (tmp_path / "v" / "fake").exists()  # nothing was left
  assert bundles.names(tmp_path / "next") == {"fake/first/3", "fake/second/1"}


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"budget_minutes": 1.0}, "--out: expected a folder for bundles and state"),
    ({"out": "o"}, "--out: expected with --budget_minutes, got it alone"),
    ({"budget_minutes": -1.0, "out": "o"}, "--budget_minutes: expected 0 or"),
  ],
)
def test_impossible_budgets_are_refused(fake, tmp_path, options, match):
  with pytest.raises(ValueError, match=match):
    driver.configure(study="fake", workdir=str(tmp_path), **options)


def test_signals_reach_the_queue(fake, tmp_path, monkeypatch):
  monkeypatch.setattr(driver, "KEPT", tmp_path / "none")
  monkeypatch.setattr(train, "stop_on_signals", lambda: _AlreadyStopped())
  options = {"budget_minutes": 0.5, "out": str(tmp_path / "out")}
  driver.run(driver.configure(study="fake", workdir=str(tmp_path / "w"), **options))
  assert bundles.names(tmp_path / "out") == set()


class _AlreadyStopped:
  def __enter__(self):
    return lambda: "SIGTERM"

  def __exit__(self, *error):
    return None


def test_a_run_that_ended_after_its_driver_was_killed_is_bundled(fake, tmp_path):
  # A driver without a budget leaves no bundles, as one that is killed.
  plain = {"study": "fake", "seeds": ("1", "3"), "workdir": str(tmp_path / "w")}
  driver.run(driver.configure(**plain, runs=("second",)))
  driver.run(_configure(tmp_path))
  expected = {"fake/first/1", "fake/first/3", "fake/second/1"}
  assert bundles.names(tmp_path / "out") == expected


def test_a_second_call_to_the_same_folder_keeps_what_is_in_it(fake, tmp_path):
  driver.run(_configure(tmp_path, runs=("second",)))
  driver.run(_configure(tmp_path, workdir=str(tmp_path / "v")))
  assert not (tmp_path / "v" / "fake" / "second").exists()  # it is bundled
  expected = {"fake/first/1", "fake/first/3", "fake/second/1"}
  assert bundles.names(tmp_path / "out") == expected


def test_a_folder_that_no_call_has_filled_is_refused(fake, tmp_path):
  (tmp_path / "empty").mkdir()
  config = _configure(tmp_path, continue_from=str(tmp_path / "empty"))
  with pytest.raises(
    ValueError, match=r"--continue_from: expected a folder that an ea"
  ):
    driver.run(config)
  assert not (tmp_path / "w").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_run(
  fake, tmp_path, monkeypatch
):
  def full(**options):
    raise OSError(errno.EROFS, "Read-only file system")

  monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
  with pytest.raises(ValueError, match=r"--out: expected .*out \(Read-only file"):
    driver.run(_configure(tmp_path))
  assert not (tmp_path / "w").exists()


def _leave(folder, **report):
  folder.mkdir()
  (folder / run_queue.REPORT).write_text(json.dumps(report))
  return str(folder)


def test_a_folder_of_another_study_is_refused(fake, tmp_path):
  before = _leave(tmp_path / "before", study="digits", finished=["digits/cnn/1"])
  match = "--continue_from: expected runs of --study=fake, got those of digits in"
  with pytest.raises(ValueError, match=match):
    driver.run(_configure(tmp_path, continue_from=before))
  assert not (tmp_path / "w").exists()


def test_a_folder_of_another_commit_is_used_and_noted(fake, tmp_path, capsys):
  left = {"fake/first/1": {}}
  before = _leave(tmp_path / "before", study="fake", commit="0123", left=left)
  driver.run(_configure(tmp_path, continue_from=before))
  assert "was left by commit 0123 and goes on with" in capsys.readouterr().out
  report = json.loads((tmp_path / "out" / run_queue.REPORT).read_text())
  assert report["commit"] == environment.commit()


def test_a_dry_run_writes_nothing(fake, tmp_path, capsys):
  driver.run(_configure(tmp_path, dry_run=True))
  assert "fake_launcher" in capsys.readouterr().out
  assert not (tmp_path / "w").exists()
  assert not (tmp_path / "out").exists()


def test_runs_of_a_study_that_waits_are_left_with_the_reason(
  fake, tmp_path, monkeypatch, capsys
):
  waits = fake._replace(waits="rates are not chosen")
  monkeypatch.setitem(catalogue.STUDIES, "fake", waits)
  driver.run(_configure(tmp_path, runs=("second",)))
  assert "left: fake/second/1, rates are not chosen" in capsys.readouterr().out
  assert not (tmp_path / "w" / "fake").exists()


def _row(name, *flags):
  return queue_rows.Row(name, launches.Job(None, ["train", *flags]))


def test_rows_without_their_data_wait_and_the_others_do_not(tmp_path):
  (tmp_path / "cifar10").mkdir()
  place = f"--data_dir={tmp_path}"
  rows = [
    _row("a", "--dataset=cifar10", place),
    _row("b", "--dataset=mnist_rotated", place),
    _row("c", "--dataset=pacs:1.0.0", place),
    _row("d", "--dataset=digits", place),
    _row("e", "--dataset=pacs"),
  ]
  found = budgeted.without_data(rows, tmp_path)
  assert [*found] == ["b", "c"]
  assert found["b"] == f"no mnist in --data_dir={tmp_path}"
  match = "--data_dir: expected a folder with the prepared data sets mnist, pacs, got"
  with pytest.raises(ValueError, match=match):
    budgeted.without_data(rows[1:3], tmp_path)


@pytest.mark.slow
@pytest.mark.optimizer
def test_a_queue_on_digits_bundles_what_ends_and_saves_what_does_not_fit(
  tmp_path, monkeypatch
):
  flags = ("--dataset=digits", "--stages=student_labels", "--batch_size=256")
  flags += ("--student_network=digits_cnn:2", "--measure=", "--nodiagnostics")
  flags += ("--test_split=test[:64]", "--checkpoint_seconds=0")
  runs = tuple(
    spec.Run(
      name, "", (*flags, f"--student_epochs={n}@1e-3"), job="similarity_preserving"
    )
    for name, n in (("short", 1), ("long", 100_000))
  )
  arms = (spec.Arm("student_labels", "labels"),)
  table = spec.Comparison(arms, (spec.Column("accuracy"),))
  monkeypatch.setitem(
    catalogue.STUDIES, "small", spec.Study("small", runs, comparison=table)
  )
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
  long = tmp_path / "w" / "small" / "long" / "0"
  begun = contextlib.nullcontext(lambda: "SIGTERM" if _epochs(long) > 1 else None)
  monkeypatch.setattr(train, "stop_on_signals", lambda: begun)
  options = {"study": "small", "seeds": ("0",), "budget_minutes": 5.0}
  driver.run(_configure(tmp_path, **options))
  assert bundles.names(tmp_path / "out") == {"small/short/0"}
  report = json.loads((tmp_path / "out" / run_queue.REPORT).read_text())
  assert [*report["left"]] == ["small/long/0"]
  there = tmp_path / "there"
  assert saved_state.unpack(tmp_path / "out", there) == ["small/long/0"]
  assert saved_state.progress(there / "small" / "long" / "0")[1] >= 4
  bundles.extract(tmp_path / "out", there)
  assert "seed" in json.loads((there / "small/short/0/config.json").read_text())
  results = json.loads((there / "small/short/0/results.json").read_text())
  assert results["networks"][0]["environment"]["commit"] == environment.commit()


def _epochs(folder):
  return len(step_costs.epochs(folder).get("student_labels", ()))

"""Facts about runs: job, data, command, versions, machine and seed."""

import pytest

from flowkd_jax import _files
from flowkd_jax.report import _facts

MADE = {
  "command": "flowkd train distill --workdir=W",
  "commit": "0123abc+",
  "flowkd_jax": "0.2.0",
  "python": "3.11.9",
  "jax": "0.10.2",
  "flax": "0.12.8",
  "optax": "0.2.8",
  "device": "1 x gpu",
  "processor": "Abacus 3",
  "cores": 2,
}


def test_facts_are_those_that_were_recorded():
  config = {"dataset": "digits", "train_split": "train", "seed": 0}
  results = [{"name": "a/one", "environment": MADE}, {"name": "b", "environment": MADE}]
  assert _facts.run_facts(results, config, {"job": "distill"}) == {
    "job": "distill",
    "data set": "digits, train_split=train",
    "seed": "0",
    "command": "flowkd train distill --workdir=W",
    "commit": "0123abc with uncommitted changes",
    "flowkd_jax": "0.2.0",
    "Python": "3.11.9",
    "JAX": "0.10.2",
    "Flax": "0.12.8",
    "Optax": "0.2.8",
    "devices": "1 x gpu",
    "processor": "Abacus 3",
    "cores": "2",
  }


def test_facts_that_differ_between_stages_are_told_for_each():
  later = {**MADE, "commit": None}
  del later["flowkd_jax"]
  results = [
    {"name": "a", "environment": MADE},
    {"name": "b", "environment": later},
    {"name": "c", "environment": later},
  ]
  facts = _facts.run_facts(results, {}, {})
  assert facts["commit"] == (
    "0123abc with uncommitted changes (a); none: not run from a git checkout (b, c)"
  )
  assert facts["flowkd_jax"] == "0.2.0 (a); not recorded (b, c)"
  assert facts["JAX"] == "0.10.2"


def test_facts_of_a_running_job_are_those_of_its_start():
  facts = _facts.run_facts([], {"dataset": "digits"}, {"job": "distill", **MADE})
  assert facts["command"] == MADE["command"]
  assert facts["seed"] == "not recorded"


def test_run_of_an_older_version_has_no_facts():
  facts = _facts.run_facts([{"name": "student"}], {}, {})
  assert {*facts.values()} == {"not recorded"}


def test_start_is_read_as_it_was_written(tmp_path):
  assert _facts.read_start(tmp_path) == {}
  _files.write_json(tmp_path / "environment.json", MADE)
  assert _facts.read_start(tmp_path) == MADE
  (tmp_path / "environment.json").write_text("{")
  with pytest.raises(
    ValueError, match=r"environment.json is damaged: .*restore a copy"
  ):
    _facts.read_start(tmp_path)
  (tmp_path / "environment.json").write_text("3")
  with pytest.raises(ValueError, match=r"environment.json: expected the environment"):
    _facts.read_start(tmp_path)


@pytest.mark.parametrize("by_row", [False, True])
def test_rows_have_a_row_or_a_column_for_each_run(by_row):
  facts = {"a": {"job": "x", "seed": "0"}, "b": {"job": "y", "seed": "1"}}
  headings, rows = _facts.rows_of_runs(facts, by_row=by_row)
  if by_row:
    assert headings == ["run", "job", "seed"]
    assert rows == [["a", "x", "0"], ["b", "y", "1"]]
  else:
    assert headings == ["run", "a", "b"]
    assert rows == [["job", "x", "y"], ["seed", "0", "1"]]

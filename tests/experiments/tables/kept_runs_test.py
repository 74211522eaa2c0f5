"""The file of the kept runs of a study."""

import pytest

from experiments.tables import kept_runs


def _run(gamma, commit, metrics=()):
  environment = {"commit": commit, "cores": 2}
  network = {"name": "student", "accuracy": 0.123456789012345}
  settings = {"dataset": "digits", "gamma": gamma, "kernels": ["cosine"]}
  networks = [network | {"environment": environment}, {"name": "teacher"}]
  return kept_runs.KeptRun(settings, networks, list(metrics))


RUNS = {
  "full": {
    "2": _run(0.7, "abc", [{"stage": "student", "epoch": -1, "qmi/cosine/a": 0.5}]),
    "10": _run(
      0.7,
      "abc",
      [
        {"stage": "student", "epoch": -1, "qmi/cosine/a": 0.25},
        {"stage": "student", "epoch": 0, "qmi/cosine/a": 0.5, "loss/a": 1.5},
        {"stage": "both/first", "epoch": 0, "test_accuracy": 0.75},
      ],
    ),
  },
  "changed": {"2": _run(0.5, "def")},
}


def test_read_gives_what_write_was_given(tmp_path):
  kept_runs.write(tmp_path, RUNS)
  assert kept_runs.read(tmp_path) == RUNS
  first = (tmp_path / kept_runs.FILE).read_bytes()
  kept_runs.write(tmp_path, kept_runs.read(tmp_path))
  assert (tmp_path / kept_runs.FILE).read_bytes() == first
  assert sorted(path.name for path in tmp_path.iterdir()) == [kept_runs.FILE]


def test_stages_that_diverged_are_kept(tmp_path):
  stage = {"name": "student", "title": "the student", "error": "loss not finite"}
  runs = {"full": {"0": _run(0.7, "abc")._replace(diverged=[stage])}}
  kept_runs.write(tmp_path, runs)
  assert kept_runs.read(tmp_path) == runs


def test_seeds_are_in_numerical_order_a_line_each(tmp_path):
  kept_runs.write(tmp_path, RUNS)
  text = (tmp_path / kept_runs.FILE).read_text()
  assert text.index('"2": {') < text.index('"10": {')
  assert text.count('"dataset"') == 1
  assert text.count('"abc"') == 1


def test_read_of_a_study_without_runs_is_empty(tmp_path):
  assert kept_runs.read(tmp_path) == {}


def test_write_refuses_numbers_that_are_not_json(tmp_path):
  bad = kept_runs.KeptRun({}, [{"name": "student", "accuracy": float("nan")}], [])
  with pytest.raises(ValueError, match="not JSON compliant"):
    kept_runs.write(tmp_path, {"full": {"0": bad}})
  assert not list(tmp_path.iterdir())

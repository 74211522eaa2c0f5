"""Hierarchical self-supervision, small: all stages, refusing."""

import json

import pytest

from flowkd_jax.jobs import hierarchical_self_supervised as experiment
from flowkd_jax.jobs import settings

pytestmark = pytest.mark.optimizer

TINY = {
  "teacher_network": "resnet8:3",
  "student_network": "resnet8:2",
  "teacher_epochs": "1@0.05",
  "branch_epochs": "1@0.05",
  "student_epochs": "1@0.05",
  "flow_examples": 32,
  "diagnostics": False,
  "measure": (),
  "measure_every": 0,
  "batch_size": 200,
}


def _run(workdir, **options):
  given = {"dataset": "digits", "workdir": str(workdir), **TINY, **options}
  experiment.run(experiment.configure(**given))


def _results(workdir):
  results = json.loads((workdir / "results.json").read_text())["networks"]
  return {result["name"]: result for result in results}


@pytest.mark.slow
def test_students_learn_from_the_teacher_and_leave_their_branches(tmp_path):
  names = experiment.STAGES[:-1]
  _run(tmp_path, stages=names)
  found = _results(tmp_path)
  assert list(found) == list(names)
  taught = [name for name, result in found.items() if result["teacher"] == "teacher"]
  assert taught == ["student_kd", "student_kd_rotations", "student"]
  students = [name for name in names if name.startswith("student")]
  assert len({found[name]["parameters"] for name in students}) == 1


@pytest.mark.slow
def test_teachers_keep_their_branches_and_frozen_ones_their_accuracy(tmp_path):
  stages = ("teacher_labels", "teacher_frozen", "online")
  _run(tmp_path, stages=stages, measure=("retrieval",))
  found = _results(tmp_path)
  plain, frozen, *online = found.values()
  assert [result["name"] for result in online] == [
    "online/network_1",
    "online/network_2",
  ]
  assert online[0]["parameters"] == online[1]["parameters"] < plain["parameters"]
  assert frozen["parameters"] > plain["parameters"]
  for key in ("accuracy", "centroid"):
    assert frozen[key] == plain[key]


def test_stage_whose_teacher_is_missing_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="stage teacher_frozen has not been run.*--sta"):
    _run(tmp_path, stages=("student",), teacher="teacher_frozen")


def test_settings_are_the_authors_unless_the_data_set_has_others():
  authors = experiment.configure(dataset="cifar100", workdir="x")
  assert (authors.batch_size, authors.temperature) == (64, 3.0)
  assert settings.number_of_epochs(authors.student_epochs) == 240
  assert settings.number_of_epochs(authors.branch_epochs) == 100
  assert not experiment.configure(dataset="digits", workdir="x").flip


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"stages": ("pupil",)}, "--stages: expected one of student_labels, .* 'pupil'"),
    ({"teacher": "student"}, "--teacher: expected one of teacher, teacher_frozen"),
    ({"teacher_network": "resnet18"}, "--teacher_network: expected resnetDEPTH:WIDTH"),
    ({"student_network": "cnn1"}, "--student_network: expected resnetDEPTH:WIDTH"),
    ({"branch_epochs": "10"}, "--branch_epochs: expected EPOCHS@LEARNING_RATE"),
    ({"temperature": 0.0}, "--temperature: expected above 0, got 0.0"),
    ({"weight_decay": -0.1}, "--weight_decay: expected 0 or above"),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    experiment.configure(**{"workdir": "x", **options})

"""Hierarchical self-supervision, small: all stages, refusing."""

import json
import shutil

import jax
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.jobs import hierarchical_self_supervised as experiment
from flowkd_jax.jobs import optimizers

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


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
  """A work directory in which the teacher has been trained."""
  workdir = tmp_path_factory.mktemp("taught")
  _run(workdir, stages=("teacher",))
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
  "names",
  [
    ("student_labels", "student_kd", "student_kd_rotations"),
    ("student_joint_labels", "student"),
  ],
)
def test_students_learn_from_the_teacher_and_leave_their_branches(
  names, taught, tmp_path
):
  shutil.copytree(taught / "teacher", tmp_path / "teacher")
  _run(tmp_path, stages=names)
  found = _results(tmp_path)
  # `online` is the last of all stages.
  assert list(found) == [n for n in experiment.STAGES[:-1] if n in {*names, "teacher"}]
  learners = {"student_kd", "student_kd_rotations", "student"}
  for name, result in found.items():
    assert result["teacher"] == ("teacher" if name in learners else None)
  plain = models.by_name(TINY["student_network"], num_classes=10)
  images = np.zeros((2, 8, 8, 1), np.float32)
  without_branches = capture.init(plain, jax.random.key(0), images)["params"]
  size = sum(leaf.size for leaf in jax.tree.leaves(without_branches))
  assert {found[name]["parameters"] for name in names} == {size}


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


@pytest.mark.slow
def test_stage_whose_teacher_is_missing_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="stage teacher_frozen has not been run.*--sta"):
    _run(tmp_path, stages=("student",), teacher="teacher_frozen")


def test_settings_are_the_authors_unless_the_data_set_has_others():
  authors = experiment.configure(dataset="cifar100", workdir="x")
  assert (authors.batch_size, authors.temperature) == (64, 3.0)
  assert optimizers.number_of_epochs(authors.student_epochs) == 240
  assert optimizers.number_of_epochs(authors.branch_epochs) == 100
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

"""The job that combines losses, small."""

import contextlib
import json
import pathlib
import types

import jax
import numpy as np
import pytest

from flowkd_jax import models
from flowkd_jax import report
from flowkd_jax import train
from flowkd_jax.jobs import distill
from flowkd_jax.jobs import stages

pytestmark = pytest.mark.optimizer
TINY = {
  "dataset": "digits",
  "teacher_network": "digits_cnn:4",
  "student_network": "digits_cnn:2",
  "batch_size": 200,
  "measure": (),
  "diagnostics": False,
  "teacher_epochs": "1@0.05",
  "student_epochs": "2@0.05",
}


@pytest.mark.slow
def test_all_stages_leave_their_results(tmp_path):
  losses = "kd(temperature=2):0.9,vid[dense]:warmup(2,2)"
  workdir = tmp_path / "run"
  config = distill.configure(
    **TINY, workdir=str(workdir), losses=losses, label_weight=0.1, label_smoothing=0.1
  )
  distill.run(config)
  results = json.loads((workdir / "results.json").read_text())["networks"]
  assert [r["name"] for r in results] == list(distill.STAGES)
  assert [r["title"] for r in results][2] == "student by kd, vid"
  assert [r["teacher"] for r in results] == [None, None, "teacher"]
  for result in results:
    measured = [
      record["test_accuracy"]
      for record in report.read_metrics(workdir)
      if record["stage"] == result["name"] and record["epoch"] >= 0
    ]
    assert result["accuracy"] == measured[-1]
    assert result["best_test_epoch_accuracy"] == max(measured)
    assert measured[result["best_test_epoch"]] == max(measured)
  student = [r for r in report.read_metrics(workdir) if r["stage"] == "student"]
  assert [record["weight/vid"] for record in student[1:]] == [1, 2]
  np.testing.assert_allclose(student[1]["weight/labels"], 0.1)
  assert "(best ep.)" in (workdir / "results.md").read_text()
  again = distill.configure(
    **{**TINY, "student_epochs": "1@0.05"},
    workdir=str(tmp_path / "again"),
    networks_from=str(workdir),
    stages=("teacher", "student"),
    losses="pkt",
  )
  distill.run(again)
  results = json.loads((tmp_path / "again" / "results.json").read_text())["networks"]
  assert [r["title"] for r in results][0] == "teacher on labels, of an earlier run"
  with pytest.raises(ValueError, match="belongs to a run with other settings.*losses"):
    distill.run(
      distill.configure(**TINY, workdir=str(workdir), losses="kd", label_weight=0.1)
    )


def test_losses_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
  config = distill.configure(
    **TINY, workdir=str(tmp_path / "W"), losses="kd(temperature=-1)"
  )
  with pytest.raises(
    ValueError, match="stage student: losses: kd: temperature: expect"
  ):
    distill.run(config)
  assert not [*(tmp_path / "W").glob("*.json")]


def test_the_best_test_epoch_is_the_first_of_the_highest():
  metrics = [
    {"epoch": -1, "test_accuracy": 1.0},
    {"epoch": 0, "test_accuracy": 0.5},
    {"epoch": 1, "test_accuracy": 0.7},
    {"epoch": 2},
    {"epoch": 3, "test_accuracy": 0.7},
    {"epoch": 4, "test_accuracy": None},
  ]
  expected = {"best_test_epoch_accuracy": 0.7, "best_test_epoch": 1}
  assert distill.best_test_epoch(metrics) == expected
  assert distill.best_test_epoch(metrics[3:4]) == {}


def _trained(workdir, **given):
  """Trains the student alone, from the teacher of another run or what is given."""
  options = {"stages": ("teacher", "student"), "student_epochs": "1@0.01"}
  distill.run(distill.configure(**{**TINY, **options, **given}, workdir=str(workdir)))
  model = models.by_name(TINY["student_network"], num_classes=10)
  found = train.network_in_workdir(workdir, "student", model, image_shape=(8, 8, 1))
  return found.variables


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
  """A work directory with a teacher."""
  workdir = tmp_path_factory.mktemp("taught")
  distill.run(distill.configure(**TINY, workdir=str(workdir), stages=("teacher",)))
  return str(workdir)


@pytest.mark.slow
def test_an_interrupted_run_ends_bit_for_bit_like_a_whole_one(
  taught, tmp_path, monkeypatch
):
  """Banks, queues and learnt parts of losses are in the checkpoint."""
  losses = "crd_bank(number=8,width=4),rrd(size=256,width=4),vid[dense]"
  options = {"networks_from": taught, "losses": losses, "steps_per_call": 1}
  whole = _trained(tmp_path / "whole", **options)

  @contextlib.contextmanager
  def stop_after_some_steps():
    polls = iter([None, None, None])
    yield lambda: next(polls, "SIGTERM")

  with monkeypatch.context() as patch:
    patch.setattr(train, "stop_on_signals", stop_after_some_steps)
    with pytest.raises(train.Interrupted, match="SIGTERM"):
      _trained(tmp_path / "parts", **options)
  assert not (tmp_path / "parts" / "student" / "results.json").exists()
  parts = _trained(tmp_path / "parts", **options)
  jax.tree.map(np.testing.assert_array_equal, parts, whole)


@pytest.mark.slow
def test_the_student_learns_from_recorded_outputs(taught, tmp_path):
  cache = tmp_path / "cache"
  losses = "kd:0.9,pkt[dense:posterior]:0.5,at"
  filling = _trained(
    tmp_path / "filling", networks_from=taught, losses=losses, teacher_cache=str(cache)
  )
  (folder,) = cache.iterdir()
  recorded = _trained(
    tmp_path / "recorded",
    learn_from="recorded",
    losses=losses,
    teacher_cache=str(folder),
  )
  jax.tree.map(np.testing.assert_array_equal, recorded, filling)
  (result,) = json.loads((tmp_path / "recorded" / "results.json").read_text())[
    "networks"
  ]
  assert result["name"] == "student"
  assert result["teacher"] is None


def test_the_teacher_may_be_a_network_of_pytorch(tmp_path):
  path = tmp_path / "torch.npz"
  with np.load(pathlib.Path(__file__).parents[1] / "golden" / "torch_cnn.npz") as file:
    state = {name: file[name] for name in file.files if name.startswith("state/")}
  np.savez(path, **{name.removeprefix("state/"): a for name, a in state.items()})
  config = distill.configure(
    dataset="cifar10",
    workdir="W",
    teacher_network="cnn1:4",
    teacher_checkpoint=str(path),
  )
  training = types.SimpleNamespace(num_classes=10, image_shape=(32, 32, 3))
  datasets = types.SimpleNamespace(training=training)
  runner = types.SimpleNamespace(datasets=datasets, is_done=lambda name: False)
  stage = distill._Stages(config, runner).teacher()
  assert isinstance(stage, stages.Imported)
  assert distill.trained_teacher(config, runner).model.num_classes == 10


@pytest.mark.slow
def test_the_student_may_take_over_the_classifier_of_its_teacher(tmp_path):
  networks = dict.fromkeys(("teacher_network", "student_network"), "resnet8x4:1")
  given = {**TINY, **networks, "teacher_epochs": "1@0.01", "student_epochs": "1@0.01"}
  stages_ = ("teacher", "student_simkd")
  distill.run(distill.configure(**given, workdir=str(tmp_path), stages=stages_))
  results = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert [result["name"] for result in results] == [*stages_]
  assert 0 < results[1]["accuracy"] < 1

"""Lines of a job's log: what will happen, and what each network ended with."""

import pathlib

import pytest

from flowkd_jax import jobs
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import log_lines
from flowkd_jax.jobs import stages


def _opening(workdir, **given):
  config = jobs.load("distill").configure(
    dataset="digits",
    workdir=str(workdir),
    teacher_network="digits_cnn:2",
    student_network="digits_cnn:2",
    batch_size=200,
    **given,
  )
  progress = train.Progress()
  datasets = job_run.open_datasets(config, progress)
  runner = job_run.stage_runner(config, datasets, progress)
  network = train.blank_network(
    models.by_name("digits_cnn:2", num_classes=10), image_shape=(8, 8, 1)
  )
  chosen = [
    stages.Imported("teacher", "teacher, imported", network),
    stages.Stage("student", "student by kd", list, epochs=7),
  ]
  return [*log_lines.opening(config, runner, chosen, resumed=True)]


@pytest.mark.eight_devices
def test_opening_says_what_will_happen(tmp_path):
  workdir = tmp_path / ("long folder " + 80 * "x")
  stages.write_json(workdir / "student" / stages.RESULTS, [])
  first, data, *lines = _opening(
    workdir, seed=3, validation_split="train[900:]", train_split="train[:900]"
  )
  assert first.startswith("job: distill of flowkd_jax 0.")
  assert first.endswith(", seed 3")
  assert data == (
    "data: digits, 900 training, 100 validation and 797 test images of 8 x 8 x 1, "
    "10 classes"
  )
  assert lines == [
    "networks: teacher and student digits_cnn:2 (550 parameters)",
    "devices: 8 x cpu",
    f"work directory: {workdir}, which holds a run to resume",
    "stages (each compiles its programs in its first epoch):",
    "  1 teacher: teacher, imported, only measured",
    "  2 student: student by kd, 7 epochs of 5 steps, done before",
  ]


def test_last_figures_are_those_that_were_measured():
  result = {
    "name": "student",
    "title": "student by kd",
    "parameters": 1746,
    "accuracy": 0.975,
    "validation_accuracy": 0.5,
    "retrieval": {"cosine": {"mean_average_precision": 0.9}},
  }
  workdir = pathlib.Path("/runs/a")
  assert log_lines.last_figures(result, workdir) == (
    "student by kd: 1,746 parameters, test accuracy 97.50 %, validation accuracy "
    "50.00 %, mean average precision 90.00 % (cosine); kept in /runs/a/student/network"
  )
  # A network that diverged, and one whose classifier was not trained.
  bare = {
    "name": "student/wide",
    "parameters": 10,
    "accuracy": None,
    "retrieval": {"cosine": {"mean_average_precision": None}},
  }
  assert log_lines.last_figures(bare, workdir) == (
    "student/wide: 10 parameters; kept in /runs/a/student/wide"
  )


def test_errors_of_stages_that_diverged_are_one_message():
  assert log_lines.of_diverged(["KD: not finite"], 1) == "KD: not finite"
  errors = ["KD: not finite in step 3; no checkpoint", "ERM: not finite in step 0; no"]
  assert log_lines.of_diverged(errors, 5) == (
    "2 of 5 stages diverged: KD: not finite in step 3; ERM: not finite in step 0. "
    "Lower the learning rate or the weights, or check the input of these steps"
  )

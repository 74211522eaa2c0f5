"""Findings of the doctor."""

import dataclasses

import numpy as np
import pytest

from flowkd_jax import data
from flowkd_jax.jobs import distill
from flowkd_jax.jobs import distill_settings
from flowkd_jax.jobs import doctor
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import stages
from flowkd_jax.jobs.finding import Level

pytestmark = pytest.mark.optimizer
FINE, WARNING = Level.FINE, Level.WARNING


def test_doctor_looks_at_rows_a_device():
  assert doctor.batch_scope(128, 8).level is FINE
  assert doctor.batch_scope(32, 8).level is WARNING
  assert doctor.batch_scope(16, 1).level is WARNING


@pytest.mark.eight_devices
@pytest.mark.slow
def test_doctor_examines_a_work_directory(tmp_path, capsys):
  settings = {
    "dataset": "digits",
    "workdir": str(tmp_path),
    "auxiliary_network": "digits_cnn:4",
    "student_network": "digits_cnn:2",
    "flow_examples": 200,
    "batch_size": 200,
    "auxiliary_labels_epochs": "3@1e-2",
    "learn_from": "auxiliary",
    "layer_map": "auto",
  }
  doctor.run(information_flow.configure(**settings))
  before = " ".join(capsys.readouterr().out.split())
  for sentence in (
    "ok The flags fit together;",
    "ok Data: 1000 training and 797 test images of 8 x 8 x 1, 10 classes, kept on",
    "ok Devices: 8 x cpu (cpu).",
    "A step needs",
    "A step of the student takes",
    "not yet No trained network of the stage auxiliary is in",
    "--stages=teacher,auxiliary_labels,auxiliary)",
  ):
    assert sentence in before, before
  assert not [*tmp_path.iterdir()]
  labelled = information_flow.configure(**settings, stages=("auxiliary_labels",))
  information_flow.run(labelled)
  (tmp_path / "auxiliary_labels").rename(tmp_path / "auxiliary")
  left = sorted(tmp_path.rglob("*"))
  capsys.readouterr()
  doctor.run(information_flow.configure(**settings))
  output = " ".join(capsys.readouterr().out.split())
  for sentence in (
    "agree with the run in",
    "A step has 200 rows, 25 on each of 8 devices",
    "Measuring takes 200 images at a time and needs about",
    "layer map, auto: ",
    "The teacher classifies",
    "it is used in evaluation mode",
    "Tap block_1 of the teacher: 4 x 4 x 4,",
    "First step: weighted losses block_1",
    "First step: norms of the gradients of the weighted losses block_1",
  ):
    assert sentence in output, output
  assert "wrong" not in output
  assert sorted(tmp_path.rglob("*")) == left  # nothing was written, no layer map either
  with pytest.raises(SystemExit, match="1"):
    doctor.run(information_flow.configure(**settings, seed=1))
  assert "wrong  " in capsys.readouterr().out


@pytest.mark.slow
def test_doctor_examines_a_combination_of_losses(tmp_path, capsys):
  given = {
    "dataset": "digits",
    "workdir": str(tmp_path),
    "teacher_network": "digits_cnn:2",
    "student_network": "digits_cnn:2",
    "flow_examples": 200,
    "batch_size": 200,
    "losses": "kd:0.9,pkt",
  }
  doctor.run(distill.configure(**given))
  output = " ".join(capsys.readouterr().out.split())
  for sentence in (
    "ok The flags fit together;",
    "A step of the student takes",
    "(flowkd train distill ... --stages=teacher)",
  ):
    assert sentence in output, output
  assert not [*tmp_path.iterdir()]


def test_doctor_refuses_recorded_outputs():
  config = distill_settings.Config(workdir="W", learn_from="recorded")
  with pytest.raises(ValueError, match="--learn_from: expected teacher, as the doctor"):
    doctor.run(config)
  config = flow_settings.Config(workdir="W", learn_from="recorded")
  with pytest.raises(ValueError, match="--learn_from: expected auxiliary or teacher"):
    doctor.run(config)


def test_doctor_finds_absent_and_rare_classes():
  split = data.load("digits", "train", limit=400)
  rare = np.flatnonzero(split.labels == 3)[1:]
  for kept, said in (
    (np.flatnonzero(split.labels != 3), "No training image has the class 3"),
    (np.setdiff1d(np.arange(400), rare), "Classes have between 1 and"),
  ):
    part = dataclasses.replace(
      split, images=split.images[kept], labels=split.labels[kept]
    )
    batches = data.evaluation_batches(part, batch_size=8, mean=(8,), std=(4,))
    sets = stages.Datasets(batches, batches, batches, batches)
    fine, warning = doctor.examples(sets)
    assert fine.level is FINE
    assert warning.level is WARNING
    assert said in warning.text
    assert "kept on the devices, one copy of 0.0 MiB on each." in fine.text


@pytest.mark.slow
@pytest.mark.eight_devices
def test_doctor_says_that_a_large_data_set_is_split(monkeypatch):
  monkeypatch.setattr("flowkd_jax.parallel._resident.device_bytes", lambda _: 2**16)
  split = data.load("digits", "train")
  batches = data.evaluation_batches(split, batch_size=8, mean=(8,), std=(4,))
  fine, *_ = doctor.examples(stages.Datasets(batches, batches, batches, batches))
  assert "a part of 0.0 MiB on each" in fine.text

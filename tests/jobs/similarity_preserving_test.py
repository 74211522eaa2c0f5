"""The launcher of similarity-preserving distillation, small."""

import dataclasses
import json

import pytest

from flowkd_jax import train
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import similarity_preserving

pytestmark = pytest.mark.optimizer
TINY = {
  "dataset": "digits",
  "teacher_network": "digits_cnn:4",
  "student_network": "digits_cnn:2",
  "batch_size": 200,
  "measure": (),
  "diagnostics": False,
  "teacher_epochs": "1@1e-3",
  "student_epochs": "1@1e-3",
}


@pytest.mark.slow
def test_all_arms_leave_their_results(tmp_path):
  config = similarity_preserving.configure(**TINY, workdir=str(tmp_path))
  similarity_preserving.run(config)
  results = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert [r["name"] for r in results] == list(similarity_preserving.STAGES)
  assert [r["teacher"] for r in results] == [None, None, *["teacher"] * 3]
  assert all(0 < r["accuracy"] < 1 for r in results)
  records = [
    json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  student = next(r for r in records if r["stage"] == "student" and "loss/dense" in r)
  assert student["weight/dense"] == 3000 / 128
  assert student["weight/labels"] == 1


@pytest.mark.slow
def test_accuracy_alone_is_measured_where_no_more_is_wanted(tmp_path):
  config = similarity_preserving.configure(
    **TINY,
    workdir=str(tmp_path),
    stages=("student_labels",),
    train_split="train[:400]",
    validation_split="train[400:600]",
  )
  similarity_preserving.run(config)
  (found,) = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert not {"retrieval", "centroid"} & set(found)
  last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
  assert not any(name.startswith("qmi") for name in last)
  for name in ("accuracy", "validation_accuracy"):
    assert 0 < found[name] < 1
  assert last["test_accuracy"] == found["accuracy"]
  del last["test_accuracy"], last["validation_accuracy"]
  config = dataclasses.replace(config, workdir=str(tmp_path / "end"), measure_every=0)
  similarity_preserving.run(config)
  lines = (tmp_path / "end" / "metrics.jsonl").read_text().splitlines()
  assert [set(json.loads(line)) for line in lines] == [set(last)]
  assert "student on labels only | " in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"stages": ("sp",)}, "--stages: expected one of teacher, student_labels"),
    ({"weight": -1.0}, "--weight: expected 0 or above, got -1.0"),
    ({"kd_temperature": 0.0}, "--kd_temperature: expected above 0, got 0.0"),
    ({"measure": ("f",)}, "--measure: expected one of flow, retrieval, got 'f'"),
    ({"student_epochs": "x"}, "--student_epochs: expected EPOCHS@LEARNING_RATE"),
    ({"optimizer": "lamb"}, "--optimizer: expected one of adam, sgd, got 'lamb'"),
    ({"momentum": 0.5}, "--momentum: expected with the other --optimizer, got it with"),
    (
      {"optimizer": "sgd", "adam_beta2": 0.9},
      "--adam_beta2: expected with the other --optimizer",
    ),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    similarity_preserving.configure(workdir="x", **options)


def test_taps_that_are_not_there_are_refused_before_any_work():
  with pytest.raises(ValueError, match="--layer_map: no tap dens; there are block_1"):
    similarity_preserving.configure(**TINY, workdir="W", layer_map="dens:dense")


@pytest.mark.slow
def test_full_maps_are_compared_in_a_training_by_sgd(tmp_path):
  config = similarity_preserving.configure(
    **TINY
    | {"teacher_network": "resnet8x4:2", "student_network": "resnet8x1:1"}
    | {"student_epochs": "1@0.05"},
    workdir=str(tmp_path),
    stages=("teacher", "student"),
    layer_map="f3:f3",
    optimizer="sgd",
  )
  datasets = job_run.open_datasets(config, train.Progress())
  runner = job_run.stage_runner(config, datasets, train.Progress())
  arms = similarity_preserving._Arms(config, runner)
  assert arms.pairs == {"f3": "f3"}
  runner.check([arms.teacher(), arms.student()])  # traces a step

"""Online ensemble compression, small: all stages, refusing."""

import json

import pytest

from flowkd_jax.jobs import online_ensemble
from flowkd_jax.jobs import optimizers

pytestmark = pytest.mark.optimizer

TINY = {
  "network": "resnet8:2",
  "num_students": 2,
  "epochs": "1@0.1",
  "flow_examples": 32,
  "diagnostics": False,
  "measure": (),
  "measure_every": 2,
  "batch_size": 200,
}


@pytest.mark.slow
def test_all_stages_leave_their_results(tmp_path):
  config = online_ensemble.configure(dataset="digits", workdir=str(tmp_path), **TINY)
  online_ensemble.run(config)
  results = json.loads((tmp_path / "results.json").read_text())["networks"]
  together = ("student_1", "student_2", "ensemble")
  assert [result["name"] for result in results] == [
    "alone_1",
    "alone_2",
    *(f"shared_base/{name}" for name in together),
    *(f"ensemble/{name}" for name in together),
  ]
  sizes = {result["name"]: result["parameters"] for result in results}
  for number in (1, 2):
    assert sizes[f"alone_{number}"] == sizes[f"ensemble/student_{number}"]
  assert all(result["accuracy"] is not None for result in results)
  records = [
    json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  last = {record["stage"]: record for record in records}
  assert "loss/features" not in last["shared_base"]
  weights = [
    last["ensemble"][f"weight/{name}"] for name in ("labels", "features", "ensemble")
  ]
  assert weights == pytest.approx([0.7, 0.15, 0.15])
  assert last["ensemble"]["student_2/test_accuracy"] > 0


def test_stages_can_be_single_students():
  config = online_ensemble.configure(workdir="x", stages=("alone_3", "ensemble"))
  assert online_ensemble.alone(config) == ("alone_1", "alone_2", "alone_3")
  assert config.stages == ("alone_3", "ensemble")


def test_settings_are_the_papers_unless_the_data_set_has_others():
  paper = online_ensemble.configure(dataset="cifar10", workdir="x")
  assert (paper.network, paper.num_students) == ("resnet20", 5)
  assert optimizers.number_of_epochs(paper.epochs) == 350
  longer = online_ensemble.configure(dataset="cifar100", workdir="x")
  assert optimizers.number_of_epochs(longer.epochs) == 450


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"stages": ("alone_4",)}, "--stages: expected one of alone, .* got 'alone_4'"),
    ({"network": "cnn1"}, "--network: expected resnetDEPTH:WIDTH .* got 'cnn1'"),
    ({"network": "resnet21"}, "--network: .*expected one of"),
    ({"num_students": 1}, "--network, --num_students: .*expected 2 or more, got 1"),
    ({"network": "resnet8:2"}, "3 students need at least 3 channels"),
    ({"epochs": "10"}, "--epochs: expected EPOCHS@LEARNING_RATE"),
    ({"label_weight": 0.0}, "--label_weight: expected above 0, got 0.0"),
    ({"temperature": -1.0}, "--temperature: expected above 0, got -1.0"),
    ({"feature_weight": -0.1}, "--feature_weight: expected 0 or above, got -0.1"),
    ({"ensemble_weight": -0.1}, "--ensemble_weight: expected 0 or above"),
    ({"weight_decay": -0.1}, "--weight_decay: expected 0 or above"),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    online_ensemble.configure(**{"workdir": "x", **options})

"""The benchmark of the methods, at sizes that say nothing."""

import pytest

from experiments.benchmarks import methods

pytestmark = pytest.mark.optimizer

TINY = {
  "batch_size": 4,
  "image_size": 8,
  "rounds": 1,
  "steps": 1,
  "ensemble_network": "resnet8:4",
  "clients": 2,
  "local_steps": 2,
  "client_batch_size": 2,
}


@pytest.mark.slow
def test_methods_are_compared_with_plain_training(capsys):
  groups = ("ensemble", "federated")
  methods.run(methods.configure(**TINY, groups=groups))
  lines = [line for line in capsys.readouterr().out.splitlines() if line[:2] == "| "]
  names = [line.split(" | ")[0].removeprefix("| ").strip() for line in lines[1:]]
  assert names == [
    "labels only, widest student",
    "three students on a base, labels only",
    "online ensemble of three",
    "labels only, as many steps",
    "FedAvg",
    "FedProx",
    "FedGen",
    "FedGen, KL term",
  ]
  for line in lines[1:]:
    assert float(line.split(" | ")[1].split(" ")[0]) > 0
    ratio = line.split(" | ")[2]
    # Plain training against itself, and nothing else.
    assert ratio.startswith("1 (1 to 1)") == line.startswith("| labels only")


@pytest.mark.parametrize(
  ("given", "match"),
  [
    ({"rounds": 0}, "--rounds: expected 1 or more, got 0"),
    ({"groups": ("all",)}, "--groups: expected one of student, .* got 'all'"),
    ({"student_network": "cnn1"}, "--student_network: expected resnetDEPTH:WIDTH"),
  ],
)
def test_impossible_settings_are_refused(given, match):
  with pytest.raises(ValueError, match=match):
    methods.configure(**given)

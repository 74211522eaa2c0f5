"""Steps of launches at their real shapes."""

import json

import pytest

from experiments.studies import catalogue
from experiments.studies import spec
from experiments.studies import step_costs
from experiments.studies import step_shapes

pytestmark = pytest.mark.optimizer
FLAGS = (
  "--dataset=digits",
  "--teacher_network=digits_cnn:2",
  "--student_network=digits_cnn:2",
  "--batch_size=96",
  "--student_epochs=3@1e-3",
)


@pytest.fixture
def study(monkeypatch, tmp_path):
  """A study of two launches, the second from the network of the first."""
  job = "similarity_preserving"
  runs = (
    spec.Run("first", "", (*FLAGS, "--stages=student_labels"), job=job),
    spec.Run(
      "second",
      "",
      (
        "--dataset=digits",
        "--networks_from={workdir}/first/{seed}",
        "--stages=auxiliary,student",
        "--student_network=digits_cnn:1",
        "--auxiliary_network=digits_cnn:2",
      ),
    ),
  )
  monkeypatch.setitem(catalogue.STUDIES, "small", spec.Study("small", runs))
  monkeypatch.setattr(step_costs, "FILE", tmp_path / "steps.json")
  step_costs.read.cache_clear()
  yield
  step_costs.read.cache_clear()


@pytest.mark.slow
def test_steps_are_compiled_taken_and_kept(study, capsys):
  options = {"studies": ("small",), "runs": ("first",)}
  step_shapes.run(step_shapes.configure(**options, steps=1, write=True))
  (cost,) = step_costs.read()["small/first"]
  assert (cost.stage, cost.epochs, cost.steps) == ("student_labels", 3, 11)
  assert cost.operations > 1e5
  assert cost.convolutions + cost.products > 2
  assert 0 < cost.gib < 1
  assert "small/first, student_labels: 3 x 11 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_networks_of_other_launches_are_not_trained_and_memory_is_kept(study):
  before = step_costs.StageCost("student", 1, 1, 1.0, 1, gib=0.5)
  content = {"small/second": [before._asdict()]}
  step_costs.FILE.write_text(json.dumps(content))
  options = {"studies": ("small",), "runs": ("second",)}
  step_shapes.run(step_shapes.configure(**options, write=True))
  step_costs.read.cache_clear()
  (cost,) = step_costs.read()["small/second"]
  assert (cost.stage, cost.epochs, cost.gib) == ("student", 40, 0.5)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"studies": ("none",)}, "--studies: expected one of"),
    ({"runs": ("none",)}, "--runs: expected one of student"),
    ({"steps": -1}, "--steps: expected 0 or above"),
  ],
)
def test_impossible_settings_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    step_shapes.configure(**options)

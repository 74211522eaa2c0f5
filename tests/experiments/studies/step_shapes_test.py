"""Steps of launches at their real shapes."""

import json

import pytest

from experiments.studies import catalogue
from experiments.studies import rehearsal
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
  assert (cost.taken, cost.finite) == (1, True)
  assert "small/first, student_labels: 3 x 11 steps" in capsys.readouterr().out


def _cost(**values):
  return step_costs.StageCost("student", 1, 1, 1.0, 1, **values)


def _rehearse(monkeypatch, *names):
  """Steps by the hash of their program; returns the hashes of those compiled."""
  compiled = []

  class Step:
    def __init__(self, name):
      self.cost, self.lowered = _cost(program=name), self

    def compile(self):
      compiled.append(self.cost.program)

    def take(self, program, number):
      del program
      return rehearsal.Outcome(number, self.cost.program != "nan", 0.5)

  monkeypatch.setattr(rehearsal, "gib", lambda compiled: 1.5)
  programs = iter(names)
  monkeypatch.setattr(rehearsal, "steps", lambda command: [Step(next(programs))])
  return compiled


def test_equal_programs_are_compiled_and_taken_once(study, monkeypatch):
  options = {"studies": ("small",), "steps": 2, "write": True}
  compiled = _rehearse(monkeypatch, "a", "a", "a", "b")
  step_shapes.run(step_shapes.configure(**options))
  assert compiled == ["a"]
  step_shapes.run(step_shapes.configure(**options))
  assert compiled == ["a", "b"]
  found = step_costs.read()
  assert found["small/first"] == (
    _cost(program="a", gib=1.5, taken=2, finite=True, cpu_seconds=0.5),
  )
  assert found["small/second"][0].program == "b"


def test_a_step_that_diverged_is_taken_again_by_a_launch_of_another_rate(
  study, monkeypatch
):
  compiled = _rehearse(monkeypatch, "nan", "nan")
  options = {"studies": ("small",), "steps": 1}
  with pytest.raises(ValueError, match="2 stages: "):
    step_shapes.run(step_shapes.configure(**options))
  assert compiled == ["nan", "nan"]


def test_memory_of_another_program_is_not_kept(study, monkeypatch):
  old = _cost(program="old", gib=9.0, taken=5, finite=True, cpu_seconds=1.0)
  content = {"small/first": [old._asdict()]}
  step_costs.FILE.write_text(json.dumps(content))
  _rehearse(monkeypatch, "new")
  options = {"studies": ("small",), "runs": ("first",)}
  step_shapes.run(step_shapes.configure(**options, write=True))
  assert step_costs.read()["small/first"] == (_cost(program="new"),)


def test_steps_that_are_not_finite_or_too_large_are_named_when_all_are_seen(
  study, monkeypatch
):
  _rehearse(monkeypatch, "nan", "b")
  options = {"studies": ("small",), "steps": 1, "write": True}
  with pytest.raises(ValueError, match=r"1 stages: small/first, .*are not finite"):
    step_shapes.run(step_shapes.configure(**options))
  assert step_costs.read()["small/second"][0].finite
  assert step_shapes.problem_of(_cost(gib=71.0)) == "needs 71.0 GiB, more than 70"


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

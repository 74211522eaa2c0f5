"""Steps of launches, compiled and taken."""

import jax
import numpy as np
import pytest

from experiments.studies import rehearsal

pytestmark = pytest.mark.optimizer

COMMAND = (
  "similarity_preserving",
  "--dataset=digits",
  "--teacher_network=digits_cnn:2",
  "--student_network=digits_cnn:2",
  "--batch_size=96",
  "--student_epochs=3@1e-3",
  "--stages=teacher,student",
)


@pytest.mark.slow
def test_steps_of_stages_are_taken_from_teachers_with_random_weights():
  teacher, student = rehearsal.steps(COMMAND)
  assert [teacher.cost.stage, student.cost.stage] == ["teacher", "student"]
  assert (student.cost.epochs, student.cost.steps) == (3, 11)
  assert student.cost.operations > teacher.cost.operations > 1e5
  kernels = [x for x in jax.tree.leaves(student.constants) if x.ndim > 1]
  assert all(np.abs(kernel).max() > 0 for kernel in kernels)
  compiled = student.lowered.compile()
  assert 0 < rehearsal.gib(compiled) < 1
  taken, finite, seconds = student.take(compiled, 2)
  assert (taken, finite) == (2, True)
  assert seconds > 0


def test_programs_that_differ_in_constants_alone_have_one_hash():
  text = "%0 = stablehlo.constant dense<{}> : tensor<{}xf32>"
  one = rehearsal.program_hash(text.format("1.0", 2))
  assert one == rehearsal.program_hash(text.format("[1.0, 2.0]", 2))
  assert one != rehearsal.program_hash(text.format("1.0", 3))


@pytest.mark.slow
def test_steps_of_a_federated_round_are_those_of_its_clients():
  command = ("federated", "--dataset=digits", "--rounds=4", "--stages=fedavg")
  command += ("--clients_per_round=8",)
  (step,) = rehearsal.steps(command)
  assert step.cost.stage == "fedavg"
  taken, finite, _ = step.take(step.lowered.compile(), 1)
  assert (taken, finite) == (1, True)

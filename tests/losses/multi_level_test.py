"""Multi-level logit distillation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files

LEVELS = ("instance_weight", "batch_weight", "class_weight")


def _only(level, weight=1.0):
  return {name: weight * (name == level) for name in LEVELS}


@golden_files.second_set("mlkd")
def test_levels_are_those_of_the_authors(golden, x64):
  names = {
    "instance_weight": "kd",
    "batch_weight": "bc",
    "class_weight": "cc",
  }

  @jax.jit
  def evaluate(student, temperatures, weights):
    return jax.value_and_grad(losses.multi_level_distillation)(
      student, golden["teacher_weak"], temperatures=temperatures, **weights
    )

  for level, name in names.items():
    temperatures = golden["temperatures"]
    value, gradient = evaluate(golden["student_weak"], temperatures, _only(level))
    terms = golden[f"terms_{name}_loss"]
    np.testing.assert_allclose(value, terms.sum(), rtol=1e-9)
    golden_files.assert_gradient(gradient, golden[f"grad_student_weak_{name}_loss_sum"])
    value, _ = evaluate(golden["student_weak"], temperatures[1:2], _only(level))
    np.testing.assert_allclose(value, terms[1], rtol=1e-9)


@golden_files.second_set("mlkd")
def test_code_of_the_authors_is_a_sum_of_calls(golden, x64):
  """Masks that only scale, and weak views among the strong ones, as in their code."""
  rows, classes = golden["mask_rows"].mean(), golden["mask_classes"].mean()
  weak = {"instance_weight": 1.0 + rows, "batch_weight": rows, "class_weight": classes}
  inner = {**weak, "instance_weight": rows}

  @jax.jit
  @jax.value_and_grad
  def total(students):
    of_weak, of_strong = students
    both = of_weak, golden["teacher_weak"]
    distilled = (
      losses.multi_level_distillation(*both, temperatures=(2.0, 6.0), **weak)
      + losses.multi_level_distillation(*both, temperatures=(3.0, 4.0, 5.0), **inner)
      + losses.multi_level_distillation(
        of_strong,
        golden["teacher_strong"],
        temperatures=(3.0, 4.0, 5.0),
        **_only("instance_weight"),
      )
    )
    return golden["kd_weight"] * distilled

  value, gradients = total((golden["student_weak"], golden["student_strong"]))
  np.testing.assert_allclose(value, golden["value"], rtol=1e-9)
  golden_files.assert_gradient(gradients[0], golden["grad_student_weak"])
  golden_files.assert_gradient(gradients[1], golden["grad_student_strong"])


def _logits(seed=0):
  rng = np.random.default_rng(seed)
  return [rng.standard_normal((4, 3, 5)) for _ in range(2)]


def test_classes_that_both_sides_rule_out_do_not_count(x64):
  sides = _logits()
  expected = losses.multi_level_distillation(*sides)
  wider = [np.insert(side, 2, -np.inf, axis=2) for side in sides]
  np.testing.assert_allclose(
    losses.multi_level_distillation(*wider), expected, rtol=1e-12
  )


def test_standardized_instances_leave_the_relations_alone(x64):
  student, teacher = _logits()
  for level in LEVELS:
    plain, standardized, moved = (
      losses.multi_level_distillation(
        side, teacher, standardize=standardize, temperatures=(2.0,), **_only(level)
      )
      for side, standardize in ((student, False), (student, True), (3 * student, True))
    )
    if level == "instance_weight":
      np.testing.assert_allclose(moved, standardized, rtol=1e-6)
    else:
      assert plain == standardized != moved


def test_impossible_temperatures_are_refused():
  student, teacher = (jnp.asarray(side, jnp.float32) for side in _logits())
  for values, message in (
    ((), "temperatures: expected one number above 0 or more, got none"),
    ((2.0, 0.0), "temperatures: expected a number above 0, got 0"),
  ):
    with pytest.raises(ValueError, match=message):
      losses.multi_level_distillation(student, teacher, temperatures=values)
  with pytest.raises(TypeError, match="batch_weight: expected a number, got 'x'"):
    losses.multi_level_distillation(student, teacher, batch_weight="x")

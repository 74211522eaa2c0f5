"""Losses over several taps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import flow
from flowkd_jax import kernels
from flowkd_jax import losses

LABELS = jnp.arange(10, dtype=jnp.int32) % 3


def _taps(seed, widths=(6, 4, 4)):
  rng = np.random.default_rng(seed)
  return {
    f"tap_{index}": jnp.asarray(rng.standard_normal((10, width)), jnp.float32)
    for index, width in enumerate(widths)
  }


def test_information_flow_is_the_weighted_sum_of_its_terms():
  student, teacher = _taps(0), _taps(1, (8, 8, 9))
  terms = jax.jit(losses.information_flow_terms)(student, teacher)
  assert list(terms) == list(student)
  pair = [kernels.cosine(), kernels.student_t()]
  divergence = jax.jit(functools.partial(losses.conditional_divergence, kernel=pair))
  expected = [
    divergence(s, t) for s, t in zip(student.values(), teacher.values(), strict=True)
  ]
  np.testing.assert_allclose(list(terms.values()), expected, rtol=1e-5)
  weights = (100.0, 100.0, 1.0)
  by_name = dict(zip(terms, weights, strict=True))
  in_order = [[*student.values()], [*teacher.values()]]
  for given, taps in ((weights, in_order), (by_name, (student, teacher))):
    loss = jax.jit(functools.partial(losses.information_flow, weights=given))
    np.testing.assert_allclose(loss(*taps), np.dot(weights, expected), rtol=1e-5)


def test_layer_map_pairs_taps_of_networks_of_different_depth():
  student, teacher = (
    list(taps.values()) for taps in (_taps(0, (6, 4)), _taps(1, (8, 8, 9)))
  )
  terms = jax.jit(functools.partial(losses.information_flow_terms, layer_map=(0, 2)))(
    student, teacher
  )
  expected = jax.jit(losses.information_flow)([student[1]], [teacher[2]])
  np.testing.assert_allclose(terms["tap 1"], expected, rtol=1e-6)
  with pytest.raises(
    ValueError, match="student has 2 and the teacher 3; pass layer_map"
  ):
    losses.information_flow(student, teacher)
  with pytest.raises(ValueError, match="layer_map: expected 2 teacher indices"):
    losses.information_flow(student, teacher, layer_map=(0, 3))


def test_quadratic_flow_is_the_relative_flow_divergence():
  student, teacher = (
    list(taps.values()) for taps in (_taps(0), _taps(1, (8, 8, 9, 5)))
  )
  options = {"labels": LABELS, "num_classes": 3}

  @jax.jit
  def expected_and_actual(student, teacher):
    expected = [
      flow.flow_divergence(
        flow.information_flow(student, LABELS, 3, kernel=kernels.by_name(name)),
        flow.information_flow(teacher, LABELS, 3, kernel=kernels.by_name(name)),
        relative=True,
      )
      for name in ("cosine", "student_t")
    ]
    return expected, losses.quadratic_flow(student, teacher, **options)

  expected, actual = expected_and_actual(student, teacher)
  np.testing.assert_allclose(actual, sum(expected), rtol=1e-4)
  assert expected_and_actual(student, student)[1] == 0


def test_weights_must_match_the_taps():
  taps = dict.fromkeys(_taps(0))  # refused before any tap is looked at
  options = {"labels": LABELS, "num_classes": 3}
  for loss in (
    losses.information_flow,
    functools.partial(losses.quadratic_flow, **options),
  ):
    with pytest.raises(ValueError, match="weights: expected 3, one per tap, got 2"):
      loss([*taps.values()], [*taps.values()], weights=(1.0, 1.0))
    with pytest.raises(
      TypeError, match="weights: expected a weight for each of 'tap_0"
    ):
      loss(taps, taps, weights=(1.0, 1.0, 1.0))
    with pytest.raises(TypeError, match="weights: expected a sequence of 3"):
      loss([*taps.values()], [*taps.values()], weights={"tap 0": 1.0})
    for wrong in ("one", (1.0,), None, jnp.ones(10), lambda step: 1.0):
      with pytest.raises(TypeError, match="weights: expected a number for 'tap_1'"):
        loss(taps, taps, weights={"tap_0": 1.0, "tap_1": wrong, "tap_2": 1.0})
    with pytest.raises(TypeError, match=r"weights: expected a weight .* got a float"):
      loss([*taps.values()], [*taps.values()], weights=1.0)
    with pytest.raises(ValueError, match=r"each of \['tap_0'.* got \['tap_9'\]"):
      loss(taps, taps, weights={"tap_9": 1.0})


def test_unknown_names_are_refused():
  student = _taps(0)
  with pytest.raises(ValueError, match="kernel: expected one of"):
    losses.information_flow(student, student, kernel_names=["cosinus"])
  with pytest.raises(ValueError, match="divergence: expected one of"):
    losses.information_flow(student, student, divergence_name="js")

"""Information flow vectors, the layer map, and the flow divergence."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec

from flowkd_jax import flow
from flowkd_jax import information
from flowkd_jax import kernels


def _taps(seed=0, shapes=((4, 4, 2), (8,), (2, 4), (8,))):
  rng = np.random.default_rng(seed)
  return {
    f"tap_{index}": jnp.asarray(rng.standard_normal((10, *shape)), jnp.float32)
    for index, shape in enumerate(shapes)
  }


LABELS = jnp.arange(10, dtype=jnp.int32) % 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "student_t"])
def test_information_flow_holds_the_information_of_each_tap(name):
  taps, kernel = _taps(), kernels.by_name(name)
  single = jax.jit(
    lambda tap: information.quadratic_mutual_information(tap, LABELS, 3, kernel=kernel)
  )
  measure = jax.jit(lambda taps: flow.information_flow(taps, LABELS, 3, kernel=kernel))
  expected = {name: single(tap) for name, tap in taps.items()}
  chex.assert_trees_all_close(measure(taps), expected, rtol=1e-5)
  flow_vector = measure(list(taps.values()))
  np.testing.assert_allclose(flow_vector, list(expected.values()), rtol=1e-5)


def test_taps_of_equal_width_share_one_vmap():
  calls = []

  def measure(x):
    calls.append(x.shape)
    return x.sum()

  taps = [jnp.ones((3, 4)), jnp.ones((3, 5)), 2 * jnp.ones((3, 4))]
  np.testing.assert_array_equal(flow.map_by_shape(measure, taps), [12, 15, 24])
  assert calls == [(3, 4), (3, 5)]


@pytest.mark.slow
def test_equal_taps_in_blocks_may_be_split_by_shard_map():
  taps = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 3)), jnp.float32)
  labels = jnp.arange(16, dtype=jnp.int32) % 3

  def value_and_grad(axis_name, taps, labels):
    def total(taps):
      options = {"kernel": "cauchy", "axis_name": axis_name, "block_size": 1}
      return flow.information_flow(list(taps), labels, 3, **options).sum()

    return jax.value_and_grad(total)(taps)

  expected = jax.jit(functools.partial(value_and_grad, None))(taps, labels)
  mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
  rows = PartitionSpec(None, "d")
  split = jax.shard_map(
    functools.partial(value_and_grad, "d"),
    mesh=mesh,
    in_specs=(rows, PartitionSpec("d")),
    out_specs=(PartitionSpec(), rows),
  )
  chex.assert_trees_all_close(jax.jit(split)(taps, labels), expected, atol=1e-6)


def test_nearest_layers_map_last_to_last():
  student = jnp.array([0.1, 0.5, 0.1])
  teacher = jnp.array([0.1, 0.4, 0.6, 0.9])
  np.testing.assert_array_equal(flow.nearest_layers(student, teacher), [0, 1, 3])


@pytest.mark.slow
def test_flow_divergence_sums_squares_over_the_layer_map():
  student, teacher = jnp.array([0.1, 0.5]), jnp.array([0.2, 0.4, 1.0])
  nearest = flow.flow_divergence(student, teacher)
  np.testing.assert_allclose(nearest, 0.1**2 + 0.5**2, rtol=1e-5)
  given = flow.flow_divergence(student, teacher, layer_map=(1, 2))
  np.testing.assert_allclose(given, 0.3**2 + 0.5**2, rtol=1e-5)
  weighted = flow.flow_divergence(student, teacher, weights=jnp.array([100.0, 1.0]))
  np.testing.assert_allclose(weighted, 1 + 0.5**2, rtol=1e-5)
  relative = flow.flow_divergence(student, teacher, relative=True)
  np.testing.assert_allclose(relative, 0.5**2 + 0.5**2, rtol=1e-5)


@pytest.mark.slow
def test_flow_divergence_is_differentiable_in_the_student_taps():
  student, teacher = (list(_taps(seed).values()) for seed in (0, 1))

  @jax.jit
  @jax.value_and_grad
  def divergence(taps):
    flows = (flow.information_flow(each, LABELS, 3) for each in (taps, teacher))
    return flow.flow_divergence(*flows, layer_map=(0, 1, 2, 3))

  before, gradient = divergence(student)
  moved = jax.tree.map(lambda x, g: x - 10 * g, student, gradient)
  assert divergence(moved)[0] < before


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match="expected at least one activation"):
    flow.information_flow([], LABELS, 3)
  with pytest.raises(TypeError, match="conv: expected a floating-point array"):
    flow.information_flow({"conv": jnp.ones((10, 2), jnp.int32)}, LABELS, 3)
  with pytest.raises(ValueError, match="from 0 to 2, one per student tap, got"):
    flow.flow_divergence(jnp.ones(2), jnp.ones(3), layer_map=(0, 3))
  with pytest.raises(ValueError, match="expected 2 teacher indices"):
    flow.flow_divergence(jnp.ones(2), jnp.ones(3), layer_map=(0,))
  with pytest.raises(ValueError, match="layer_map: expected one of 'nearest'"):
    flow.flow_divergence(jnp.ones(2), jnp.ones(3), layer_map="closest")
  with pytest.raises(ValueError, match="student_flow: expected a non-empty vector"):
    flow.flow_divergence(jnp.ones(()), jnp.ones(3))
  for wrong in ({0.1, 0.2}, "ab", [("conv", 0.1)], {"conv": 0.1}.values()):
    with pytest.raises(
      TypeError, match="student_flow: expected a vector with one numb"
    ):
      flow.flow_divergence(wrong, jnp.ones(3))
  with pytest.raises(ValueError, match=r"weights: expected shape \(2,\), got \(1,\)"):
    flow.flow_divergence(jnp.ones(2), jnp.ones(3), weights=[1.0])


def _best_by_trial(similarity):
  students, teachers = similarity.shape
  maps = itertools.combinations_with_replacement(range(teachers), students)
  allowed = [choice for choice in maps if choice[-1] == teachers - 1]
  return max(
    allowed, key=lambda choice: sum(similarity[i, j] for i, j in enumerate(choice))
  )


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 3), (4, 6), (5, 2)])
def test_monotone_layers_is_the_best_map_in_order(shape):
  for seed in range(20):
    similarity = np.random.default_rng(seed).standard_normal(shape)
    assert flow.monotone_layers(similarity) == _best_by_trial(similarity)


def test_monotone_layers_of_equal_networks_is_one_to_one():
  assert flow.monotone_layers(np.eye(4)) == (0, 1, 2, 3)


@pytest.mark.parametrize(
  "similarity", [np.zeros(3), np.zeros((0, 2)), np.array([[0.0, np.nan]])]
)
def test_monotone_layers_refuses_what_is_no_matrix(similarity):
  with pytest.raises(ValueError, match="similarity: expected a finite matrix"):
    flow.monotone_layers(similarity)

"""Functions of a whole batch on meshes with axes of type Explicit."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from flowkd_jax import flow
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics import meshes

ROWS = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
LABELS = np.arange(16, dtype=np.int32) % 3


def _placed(array):
  mesh = jax.make_mesh((8,), ("batch",))
  return jax.device_put(array, NamedSharding(mesh, PartitionSpec("batch")))


@pytest.mark.eight_devices
def test_on_any_mesh_keeps_the_order_of_mappings():
  @meshes.on_any_mesh
  def size_if_ordered(taps, *, more):
    ordered = list(taps) == list(more) == ["b", "a"]
    return (taps["b"] ** 2).sum() * float(ordered)

  taps = {"b": _placed(ROWS), "a": _placed(ROWS)}
  assert size_if_ordered(taps, more=taps) > 0


@pytest.mark.slow
@pytest.mark.eight_devices
@pytest.mark.parametrize(
  "measure",
  [
    lambda rows, labels: flow.information_flow([rows, 2 * rows], labels, 3),
    lambda rows, labels: information.information_potentials(
      rows, labels, 3, kernel=kernels.rbf()
    ),
    lambda rows, labels: kernels.student_t()(rows),
    lambda rows, labels: losses.information_flow_terms([rows], [2 * rows]),
    lambda rows, labels: losses.quadratic_flow(
      [("b", rows), ("a", 2 * rows)],
      {"a": 3 * rows, "c": rows**2},
      labels=labels,
      num_classes=3,
      pairs={"b": "c", "a": "a"},
      weights={"b": 2.0, "a": 1.0},
    ),
    lambda rows, labels: losses.crd_negatives(jax.random.key(0), labels, 48, number=8),
  ],
)
def test_explicit_meshes_change_nothing(measure):
  measure = jax.jit(measure)
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6),
    measure(_placed(ROWS), _placed(LABELS)),
    measure(ROWS, LABELS),
  )


@pytest.mark.eight_devices
@pytest.mark.slow
def test_explicit_axes_beside_manual_ones():
  mesh = jax.make_mesh((4, 2), ("batch", "model"))
  rows = jax.device_put(ROWS, NamedSharding(mesh, PartitionSpec("batch", "model")))
  mapped = jax.shard_map(
    lambda student, teacher: losses.pkt(student, teacher, axis_name="batch"),
    mesh=mesh,
    in_specs=PartitionSpec("batch"),
    out_specs=PartitionSpec(),
    axis_names={"batch"},
  )
  value = jax.jit(mapped)(rows, rows**2)
  np.testing.assert_allclose(value, losses.pkt(ROWS, ROWS**2), rtol=1e-4)

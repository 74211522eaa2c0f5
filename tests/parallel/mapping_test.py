"""Mapping over devices in both modes, and arrays sharded by a rule."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import flowkd_jax
from flowkd_jax import parallel

ROWS = np.arange(16, dtype=np.float32).reshape(8, 2)


def _add_total(carried, rows):
  total = lax.psum(rows.sum(), parallel.AXIS)
  return carried + total, rows * total


@pytest.mark.eight_devices
def test_map_step_splits_rows_and_gives_the_rest_to_every_device():
  mapped = parallel.map_step(_add_total, in_axes=(None, 0))
  carried, rows = mapped(jnp.ones(()), ROWS)
  np.testing.assert_array_equal(carried, np.full(8, 1 + ROWS.sum()))
  np.testing.assert_array_equal(rows, ROWS * ROWS.sum())


@pytest.mark.eight_devices
def test_map_step_returns_one_result_and_donates():
  devices = jax.local_devices()[:4]
  mapped = parallel.map_step(
    lambda *given: _add_total(*given)[0],
    in_axes=(None, 1),
    out_axes=None,
    donate=(0,),
    devices=devices,
  )
  mesh = jax.sharding.Mesh(np.array(devices), (parallel.AXIS,))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  carried = jax.device_put(jnp.ones(()), everywhere)
  total = mapped(carried, ROWS.reshape(4, 4).T)
  assert total.shape == ()
  assert float(total) == 1 + ROWS.sum()
  with pytest.raises(RuntimeError, match="deleted"):
    carried.block_until_ready()


def test_only_one_file_maps_over_devices():
  package = pathlib.Path(flowkd_jax.__file__).parent
  calling = [
    path.name for path in package.rglob("*.py") if "jax.pmap(" in path.read_text()
  ]
  assert calling == ["_mapping.py"]


@functools.partial(jax.jit, static_argnums=0)
def _placed(shard, tree):
  return parallel.constrain(tree, shard=shard)


@pytest.mark.eight_devices
def test_both_modes_take_and_return_the_same():
  def step(axis, carried, rows):
    total = parallel.global_sum(rows.sum(), axis)
    return rows * total + carried, rows - carried

  def mapped(mode, in_axis):
    return parallel.map_step(
      functools.partial(step, parallel.AXIS if mode == "pmap" else None),
      (None, in_axis),
      mode=mode,
    )

  rows = np.arange(48, dtype=np.float32).reshape(8, 3, 2)
  expected = mapped("pmap", 0)(jnp.ones(()), rows)
  jax.tree.map(
    np.testing.assert_array_equal, mapped("jit", 0)(jnp.ones(()), rows), expected
  )


@pytest.mark.eight_devices
def test_jit_mode_splits_a_later_axis_and_donates():
  seen = []

  def step(carried, rows):
    seen.append(rows.shape)
    return carried + rows.sum()

  mapped = parallel.map_step(
    step,
    (None, 1),
    out_axes=None,
    donate=(0,),
    devices=jax.local_devices()[:4],
    mode="jit",
  )
  carried = parallel.place(jnp.ones(()), jax.local_devices()[:4])
  total = mapped(carried, np.ones((5, 4, 2, 3), np.float32))
  assert float(total) == 1 + 5 * 4 * 2 * 3
  assert seen == [(5, 8, 3)]
  with pytest.raises(RuntimeError, match="deleted"):
    carried.block_until_ready()


def test_check_mode_refuses_unknown_modes_and_rules_of_another():
  with pytest.raises(ValueError, match="mode: expected one of pmap, jit, got 'vmap'"):
    parallel.map_step(lambda x: x, (0,), mode="vmap")  # pyright: ignore
  rule = parallel.fully_sharded()
  with pytest.raises(ValueError, match="shard: expected parallelism='jit' with a rule"):
    parallel.check_mode("pmap", rule, name="parallelism")
  parallel.check_mode("jit", rule)


@pytest.mark.eight_devices
def test_fully_sharded_splits_the_longest_axis_below_a_name():
  rule = parallel.fully_sharded("constants")
  assert rule("constants/params/kernel", (8, 3, 16)) == PartitionSpec(
    None, None, "batch"
  )
  assert rule("constants", (8,)) == PartitionSpec("batch")
  for name, shape in [
    ("state/params/kernel", (8, 8)),
    ("constants_of_mine", (8,)),
    ("constants/bias", (7, 9)),
    ("constants/step", ()),
    ("constants/empty", (0,)),
  ]:
    assert rule(name, shape) is None
  assert parallel.fully_sharded(num_devices=1)("kernel", (8,)) is None
  assert parallel.fully_sharded(num_devices=3)("kernel", (8, 6)) is not None


@pytest.mark.eight_devices
def test_place_and_constrain_follow_a_rule():
  tree = {"kernel": np.ones((16, 4), np.float32), "key": jax.random.key(0)}
  placed = parallel.place(tree, shard=parallel.fully_sharded(), name="constants")
  assert {shard.data.shape for shard in placed["kernel"].addressable_shards} == {(2, 4)}
  assert placed["key"].sharding.is_fully_replicated
  again = _placed(parallel.fully_sharded(), parallel.place(tree))
  assert again["kernel"].sharding == placed["kernel"].sharding


@pytest.mark.eight_devices
@pytest.mark.parametrize(
  "spec",
  [
    PartitionSpec("rows"),
    PartitionSpec("batch", "batch"),
    PartitionSpec(None, "batch"),
    PartitionSpec(None, None, "batch"),
    "batch",
  ],
)
def test_place_names_the_array_that_devices_cannot_share(spec):
  message = "shard: expected None, or a PartitionSpec .* 8 equal parts, for a/kernel of"
  with pytest.raises(ValueError, match=message):
    parallel.place(
      {"kernel": np.ones((16, 4))}, shard=lambda name, shape: spec, name="a"
    )

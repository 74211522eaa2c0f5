"""Mapping over devices, and rows of all devices."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import flowkd_jax
from flowkd_jax import parallel

ROWS = np.arange(16, dtype=np.float32).reshape(8, 2)


def _add_total(carried, rows):
  total = lax.psum(rows.sum(), parallel.AXIS)
  return carried + total, rows * total


def test_map_step_splits_rows_and_gives_the_rest_to_every_device():
  mapped = parallel.map_step(_add_total, in_axes=(None, 0))
  carried, rows = mapped(jnp.ones(()), ROWS)
  np.testing.assert_array_equal(carried, np.full(8, 1 + ROWS.sum()))
  np.testing.assert_array_equal(rows, ROWS * ROWS.sum())


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
  assert calling == [pathlib.Path(parallel.__file__).name]

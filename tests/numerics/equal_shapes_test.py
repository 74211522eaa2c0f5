"""A function mapped over arrays of equal shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from flowkd_jax._numerics import equal_shapes
from flowkd_jax._numerics import row_blocks

ROWS = np.random.default_rng(0).standard_normal((5, 16, 3)).astype(np.float32)


def test_results_are_in_the_order_of_the_arrays():
  calls = []

  def total(x, y):
    calls.append(x.shape)
    return (x + y[:, :1]).sum()

  arrays = [jnp.full((3, width), 1.0 * width) for width in (4, 5, 4, 2, 5)]
  results = equal_shapes.map_by_shape(total, arrays, arrays)
  np.testing.assert_array_equal(results, [96, 150, 96, 24, 150])
  assert sorted(calls) == [(3, 2), (3, 4), (3, 5)]


@pytest.mark.parametrize(("number", "traces"), [(7, 7), (8, 1)])
def test_few_wide_arrays_are_not_copied(number, traces):
  calls = []

  def total(x):
    calls.append(x.shape)
    return x.sum()

  jax.eval_shape(
    lambda arrays: equal_shapes.map_by_shape(total, arrays),
    [jnp.ones((2, 17))] * number,
  )
  assert len(calls) == traces


def test_dtypes_are_not_mixed(x64):
  arrays = [jnp.ones((2, 3), dtype) for dtype in (jnp.float32, jnp.float64)]
  results = equal_shapes.map_by_shape(jnp.sum, arrays)
  assert [each.dtype for each in results] == [jnp.float32, jnp.float64]


@pytest.mark.slow
@pytest.mark.parametrize("entries", [2**18, 1])
def test_arrays_split_over_devices_give_the_global_result(entries, monkeypatch):
  monkeypatch.setattr(row_blocks, "_ENTRIES_ON_CPU", entries)

  def total(rows, axis_name=None):
    def loss(student, teacher):
      return losses.pkt(student, teacher, axis_name=axis_name, block_size=2)

    return sum(equal_shapes.map_by_shape(loss, list(rows), list(rows[::-1] ** 2)))

  expected = jax.jit(jax.value_and_grad(total))(ROWS)
  mapped = jax.pmap(
    jax.value_and_grad(lambda rows: total(rows, "batch")), axis_name="batch"
  )
  split = np.moveaxis(ROWS.reshape(5, 8, 2, 3), 1, 0)
  values, gradients = mapped(split)
  np.testing.assert_allclose(values, np.full(8, expected[0]), rtol=1e-5)
  gradient = np.moveaxis(np.asarray(gradients), 0, 1).reshape(ROWS.shape) / 8
  np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-7)

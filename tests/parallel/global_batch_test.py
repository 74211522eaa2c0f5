"""Rows and sums of the global batch, whole and over a mapped axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import parallel

ROWS = np.arange(8, dtype=np.float32).reshape(4, 2)


@pytest.mark.slow
@pytest.mark.eight_devices
def test_functions_of_the_global_batch_are_those_of_the_whole_one():
  def of(rows, axis_name):
    return (
      parallel.gather_rows(rows, axis_name),
      parallel.row_positions(len(rows), axis_name),
      parallel.global_sum(rows.sum(), axis_name),
      parallel.global_mean(rows[:, 0], rows[:, 0] > 0, axis_name),
      parallel.mean_weights(rows[:, 0] > 0, axis_name, rows),
    )

  split = jax.vmap(lambda rows: of(rows, "batch"), axis_name="batch")
  gathered, positions, total, mean, weights = split(ROWS.reshape(2, 2, 2))
  expected = of(jnp.asarray(ROWS), None)
  for device in range(2):
    np.testing.assert_array_equal(gathered[device], expected[0])
    np.testing.assert_array_equal(total[device], expected[2])
    np.testing.assert_array_equal(mean[device], expected[3])
  np.testing.assert_array_equal(positions.reshape(-1), expected[1])
  np.testing.assert_array_equal(weights.reshape(-1), expected[4])


@pytest.mark.slow
def test_rows_that_are_not_finite_are_found():
  rows = jnp.asarray(ROWS).at[2, 1].set(jnp.inf)
  np.testing.assert_array_equal(parallel.finite_rows(rows), [True, True, False, True])
  assert jnp.isnan(parallel.global_mean(rows[:, 0], None, None, rows))


def test_an_axis_that_is_not_mapped_is_refused():
  with pytest.raises(ValueError, match="axis_name: expected the name of a mapped axis"):
    parallel.gather_rows(jnp.asarray(ROWS), "batch")

"""Arguments of pairwise losses: checked, widened, masked, counted, gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import pairwise
from flowkd_jax.losses import _batch

STUDENT = jnp.arange(12, dtype=jnp.float16).reshape(3, 2, 2)
TEACHER = jnp.ones((3, 5))
MASK = jnp.array([True, False, True])


@pytest.mark.slow
def test_gathered_batch_flattens_widens_and_blanks_masked_rows():
  student = STUDENT.at[1].set(jnp.nan)
  batch = _batch.gathered_batch(student, TEACHER, MASK, None)
  assert batch.rows[0].dtype == jnp.float32
  np.testing.assert_array_equal(
    batch.rows[0], [[0, 1, 2, 3], [0, 0, 0, 0], [8, 9, 10, 11]]
  )
  np.testing.assert_array_equal(batch.rows[1].sum(1), [5, 0, 5])
  np.testing.assert_array_equal(batch.positions, [0, 1, 2])
  np.testing.assert_array_equal(batch.real, MASK)
  assert batch.number == 2


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_number_is_nan_where_a_real_row_is_not_finite(value):
  teacher = TEACHER.at[2, 1].set(value)
  assert np.isnan(_batch.gathered_batch(STUDENT, teacher, MASK, None).number)
  assert _batch.gathered_batch(STUDENT, teacher, ~MASK, None).number == 1


@pytest.mark.eight_devices
def test_gathered_batch_of_several_devices_has_the_columns_of_all():
  def gathered(student, teacher, mask):
    batch = _batch.gathered_batch(student, teacher, mask, "batch")
    return batch.columns[0], batch.positions, batch.real, batch.number

  sides = [x[:, None] for x in (STUDENT, TEACHER, MASK)]
  devices = jax.devices()[:3]
  columns, positions, real, number = jax.pmap(
    gathered, axis_name="batch", devices=devices
  )(*sides)
  expected = _batch.gathered_batch(STUDENT, TEACHER, MASK, None)
  for device in range(3):
    np.testing.assert_array_equal(columns[device], expected.columns[0])
    np.testing.assert_array_equal(real[device], MASK)
  np.testing.assert_array_equal(positions.ravel(), [0, 1, 2])
  np.testing.assert_array_equal(number, [2, 2, 2])


@pytest.mark.slow
def test_pair_sides_share_the_points_in_one_block_only():
  batch = _batch.gathered_batch(STUDENT, TEACHER, None, None)
  rows, columns = _batch.pair_sides(batch, None)
  assert [*map(type, columns)] == [pairwise.Points] * 2
  assert all(one is other for one, other in zip(rows, columns, strict=True))
  _, columns = _batch.pair_sides(batch, 1)
  assert [*map(type, columns)] == [pairwise.Columns] * 2


def test_sides_of_other_shapes_are_refused():
  with pytest.raises(ValueError, match="student has 3, teacher has 2"):
    _batch.gathered_batch(STUDENT, TEACHER[:2], None, None)
  with pytest.raises(ValueError, match=r"mask: expected shape \(3,\), got \(2,\)"):
    _batch.gathered_batch(STUDENT, TEACHER, MASK[:2], None)

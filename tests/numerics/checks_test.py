"""Values of options: Python and NumPy numbers are checked, JAX arrays are not read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import checks


@pytest.mark.parametrize(
  "value", [0, -1.0, np.nan, np.inf, np.float32("nan"), np.array(-1.0)]
)
def test_check_positive_refuses_what_is_not_finite_and_above_zero(value):
  with pytest.raises(ValueError, match="width: expected a .*number above 0, got"):
    checks.check_positive("width", value)


@pytest.mark.parametrize("value", ["2", None, 1j, [1.0], np.array(True)])
def test_check_positive_refuses_what_is_no_number(value):
  with pytest.raises(TypeError, match="width: expected a number, got"):
    checks.check_positive("width", value)


def test_check_positive_reads_no_jax_array():
  checks.check_positive("width", jnp.array(-1.0))
  jax.jit(lambda width: checks.check_positive("width", width))(1.0)


def test_check_positive_refuses_shapes():
  for value in (np.ones(3), jnp.ones(3)):
    checks.check_positive("width", value, rows=3)
    with pytest.raises(ValueError, match=r"width: expected a number, got .*\(3,\)"):
      checks.check_positive("width", value)
    with pytest.raises(ValueError, match="a number or one for each of 4 rows"):
      checks.check_positive("width", value, rows=4)


def test_check_count_takes_whole_numbers_only():
  checks.check_count("size", np.int64(3))
  with pytest.raises(ValueError, match="size: expected a number above 0, got 0"):
    checks.check_count("size", 0)
  for value in (2.0, "2", None):
    with pytest.raises(TypeError, match="size: expected a whole number"):
      checks.check_count("size", value)
  with pytest.raises(TypeError, match="size: expected a whole number"):
    jax.jit(lambda size: checks.check_count("size", size))(1)


def test_check_features_refuses_lists():
  with pytest.raises(TypeError, match="student: expected an array, got list"):
    checks.check_features(student=[[1.0]])


def test_check_share_takes_numbers_from_0_to_1():
  for value in (0, 1.0, np.float32(0.5), jnp.array(2.0)):
    checks.check_share("share", value)
  for value in (-0.1, 1.5):
    with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\], got"):
      checks.check_share("share", value)

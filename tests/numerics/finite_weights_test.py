import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax._numerics import finite_weights

BROKEN = {
  "nan": np.array([1.0, np.nan]),
  "inf": np.array([np.inf], np.float16),
  "-inf": np.array([0.0, 1.0, -np.inf], np.float32),
  "bfloat16": jnp.array([jnp.nan], jnp.bfloat16),
  "float8": jnp.array([jnp.nan], jnp.float8_e4m3fn),
  "complex": np.array([1j * np.inf]),
}
FINE = {
  "finite": np.ones(3),
  "huge": np.float32([3e38]),
  "bfloat16": jnp.ones(2, jnp.bfloat16),
  "integer": np.arange(3),
  "key": jax.random.key(0),
  "empty": np.zeros(0, np.float32),
  "mask of attention": np.where(np.tri(3, dtype=bool), 0, -np.inf),
  "shape": jax.ShapeDtypeStruct((2,), jnp.float32),
}


@pytest.mark.parametrize("name", BROKEN)
def test_check_finite_names_the_array(name):
  arrays = {**FINE, "broken": BROKEN[name]}
  with pytest.raises(ValueError, match=r"weights: .* NaN or infinity in broken; t"):
    finite_weights.check_finite("weights", arrays)


def test_check_finite_names_few_of_many():
  arrays = {str(number): np.array([np.nan]) for number in range(9)}
  with pytest.raises(ValueError, match="in 0, 1, 2 and 6 more;"):
    finite_weights.check_finite("weights", arrays)


def test_check_finite_lets_other_arrays_pass():
  finite_weights.check_finite("weights", FINE)

  @jax.jit
  def traced(array):
    finite_weights.check_finite("weights", {"traced": array})
    return array

  assert np.isnan(traced(jnp.nan))


def test_by_path_names_leaves_as_they_are_nested():
  tree = {"params": {"conv": {"kernel": 1.0}}, "other": {"blocks/0/mask": 2.0}}
  assert finite_weights.by_path(tree) == {
    "params/conv/kernel": 1.0,
    "other/blocks/0/mask": 2.0,
  }


def test_by_path_keeps_leaves_apart_whose_paths_read_alike():
  tree = {"a": {"b": 1.0}, "a/b": 2.0, "c": 3.0}
  named = finite_weights.by_path(tree)
  assert named == {"['a']['b']": 1.0, "['a/b']": 2.0, "c": 3.0}

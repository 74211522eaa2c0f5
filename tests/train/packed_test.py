"""Arrays packed into one buffer for each dtype."""

import collections

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax.train import _packed

Fields = collections.namedtuple("Fields", ["b", "a"])
Others = collections.namedtuple("Others", ["a", "b"])


def _tree(kind=Fields):
  return {
    "x": kind(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.float32(7) * 1),
    "flag": np.array([True, False]),
    "half": jnp.arange(3, dtype=jnp.bfloat16),
    "none": np.zeros((0, 4), np.float32),
    "alone": np.zeros((0,), np.int8),
    "count": np.int32(3),
  }


def test_packed_arrays_come_back_as_they_were():
  tree = _tree()
  packed = _packed.pack(tree)
  assert {name: buffer.shape for name, buffer in packed.items()} == {
    "bfloat16": (3,),
    "bool": (2,),
    "float32": (7,),
    "int32": (1,),
  }
  back = _packed.unpack(packed, tree)
  assert jax.tree.structure(back) == jax.tree.structure(tree)
  jax.tree.map(np.testing.assert_array_equal, back, tree)
  for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
    assert one.dtype == other.dtype
  assert np.shares_memory(back["x"].a, packed["float32"])


def test_order_of_fields_does_not_matter():
  packed = _packed.pack(_tree())
  back = _packed.unpack(packed, _tree(Others))
  np.testing.assert_array_equal(back["x"].a, _tree()["x"].a)
  np.testing.assert_array_equal(back["x"].b, 7)

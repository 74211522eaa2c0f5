"""Kernels by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import kernels


@pytest.mark.slow
def test_names_and_objects_stand_for_kernels():
  own = kernels.rbf(3.0)
  assert kernels.as_kernel(own) is own
  assert kernels.as_kernel(None).name == "cosine"
  assert [each.name for each in kernels.as_kernels(["cosine", own])] == [
    "cosine",
    "rbf",
  ]
  assert [each.name for each in kernels.as_kernels("cauchy")] == ["cauchy"]
  rows = jnp.arange(6, dtype=jnp.float32).reshape(3, 2)
  np.testing.assert_array_equal(kernels.by_name("rbf:3")(rows), own(rows))
  assert kernels.as_kernel("rbf", authors=True).name == "authors_rbf"


@pytest.mark.parametrize(
  ("given", "error", "match"),
  [
    ("rbf:0", ValueError, "kernel: expected rbf:BANDWIDTH, the bandwidth a number abo"),
    ("cosine:1", ValueError, "kernel: expected cosine, which has no parameter"),
    ("cosin", ValueError, "kernel: expected one of cosine, .*got 'cosin'"),
    (kernels.rbf, TypeError, "kernel: expected a kernel, such as .*got 'rbf'"),
  ],
)
def test_what_is_no_kernel_is_refused(given, error, match):
  with pytest.raises(error, match=match):
    kernels.as_kernel(given)
  with pytest.raises(ValueError, match="kernels: expected at least one kernel"):
    kernels.as_kernels([])

"""Kernels of the published code."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import kernels


def test_authors_have_kernels_of_their_own():
  with pytest.raises(ValueError, match="expected one of .*cauchy.*von_mises_fisher"):
    kernels.authors_kernel("von_mises_fisher")


@pytest.mark.slow
def test_authors_student_t_is_that_of_their_code():
  x = np.random.default_rng(0).standard_normal((5, 3))
  squares = ((x[:, None] - x[None]) ** 2).sum(-1)
  expected = 1 / (1 + np.sqrt(squares + 1e-3))
  kernel = kernels.authors_kernel("student_t", epsilon=1e-3)
  np.testing.assert_allclose(kernel(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)

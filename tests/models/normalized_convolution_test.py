"""Convolution and BatchNorm in one layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.models._normalized_convolution import NormalizedConvolution
from tests.models.tiny import images_of
from tests.models.tiny import variables_of


@pytest.mark.slow
def test_groups_of_channels_are_convolved_apart():
  x = images_of((2, 6, 6, 4))
  layer = NormalizedConvolution(6, groups=2, stride=2)
  variables = variables_of(layer, x, train=False, mask=None)
  host = jax.tree.map(np.asarray, variables)
  kernel = host["params"]["conv"]["kernel"]
  norm, running = host["params"]["norm"], host["batch_stats"]["norm"]
  assert kernel.shape == (3, 3, 2, 6)
  scale = norm["scale"] / np.sqrt(running["var"] + 1e-5)
  windows = np.lib.stride_tricks.sliding_window_view(
    np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2)
  )[:, ::2, ::2]
  halves = [
    np.einsum("bhwcij,ijcd->bhwd", part, own)
    for part, own in zip(
      np.split(windows, 2, axis=3), np.split(kernel, 2, axis=3), strict=True
    )
  ]
  expected = (np.concatenate(halves, -1) - running["mean"]) * scale + norm["bias"]
  for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.05)):
    actual = layer.clone(dtype=dtype).apply(variables, x, train=False, mask=None)
    assert actual.dtype == dtype
    np.testing.assert_allclose(
      actual.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.slow
def test_kernels_are_drawn_by_output_channels_and_biases_are_zero():
  layer = NormalizedConvolution(512, groups=4, use_bias=True)
  variables = layer.init(jax.random.key(0), images_of((1, 4, 4, 8)), False, None)
  convolution = variables["params"]["conv"]
  np.testing.assert_allclose(
    np.std(convolution["kernel"]), np.sqrt(2 / (9 * 512)), rtol=0.05
  )
  np.testing.assert_array_equal(convolution["bias"], 0)

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.models import CNN
from flowkd_jax.models._windows import WindowConvolution
from flowkd_jax.models._windows import inside_map
from flowkd_jax.models._windows import window_maximum


def random_array(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 8), (5, 7), (4, 4)])
def test_window_convolution_equals_convolution_by_windows(height, width):
  x = random_array((2, height, width, 3))
  plain, windows = nn.Conv(5, (3, 3), padding="VALID"), WindowConvolution(5)
  params = {"kernel": random_array((3, 3, 3, 5), 1), "bias": random_array((5,), 2)}
  expected = plain.apply({"params": params}, x)
  actual = windows.apply({"params": params}, x)
  rows, columns = (height - 1) // 2, (width - 1) // 2
  assert actual.shape == (2, rows, columns, 4, 5)
  maps = actual.reshape(2, rows, columns, 2, 2, 5).transpose(0, 1, 3, 2, 4, 5)
  maps = maps.reshape(2, 2 * rows, 2 * columns, 5)[:, : height - 2, : width - 2]
  np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_window_convolution_has_the_variables_of_a_convolution():
  x = jnp.ones((1, 6, 6, 3))
  plain, windows = nn.Conv(5, (3, 3)), WindowConvolution(5)
  shapes = [
    jax.tree.map(jnp.shape, jax.eval_shape(layer.init, jax.random.key(0), x))
    for layer in (plain, windows)
  ]
  assert shapes[0] == shapes[1]


def test_inside_map_marks_the_border_of_odd_maps():
  assert inside_map(4, 6).all()
  assert inside_map(4, 6).shape == (2, 3, 4)
  inside = inside_map(3, 4)
  assert inside.sum() == 12
  np.testing.assert_array_equal(inside[1, 0], [True, True, False, False])


def test_window_maximum_drops_incomplete_windows():
  x = random_array((2, 3, 4, 4, 5))
  np.testing.assert_array_equal(window_maximum(x, 6, 8), x.max(3))
  np.testing.assert_array_equal(window_maximum(x, 5, 7), x[:, :2, :3].max(3))


@pytest.mark.slow
def test_window_maximum_gives_ties_to_the_first():
  x = jnp.array([[[1.0, 2.0, 2.0, 0.0]]])[..., None]
  gradient = jax.grad(lambda x: window_maximum(x, 2, 2).sum())(x[None])
  np.testing.assert_array_equal(gradient.ravel(), [0, 1, 0, 0])


class Plain(nn.Module):
  """`CNN(width=2, num_blocks=1)` as it is usually written."""

  padding: str

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(2, (3, 3), padding=self.padding, name="conv_1")(x)
    x = nn.BatchNorm(use_running_average=False, name="norm_1")(x)
    x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
    x = nn.relu(nn.Dense(16, name="hidden")(x.reshape(x.shape[0], -1)))
    return nn.Dense(10, name="classifier")(x)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("size", [(6, 6), (7, 9)])
def test_cnn_equals_the_usual_network(padding, size):
  images, weights = random_array((4, *size, 3)), random_array((4, 10), 1)
  model = CNN(width=2, num_blocks=1, padding=padding)
  rng = np.random.default_rng(2)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  # Negative scales too: they turn the maximum into a minimum.
  variables = jax.tree.map(
    lambda v: jnp.asarray(rng.uniform(-1, 1, v.shape), v.dtype), shapes
  )

  def gradient(model, **options):
    def loss(params):
      logits, _ = model.apply(
        {**variables, "params": params}, images, mutable=["batch_stats"], **options
      )
      return (weights * logits).mean()

    return jax.jit(jax.value_and_grad(loss))(variables["params"])

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    gradient(model, train=True),
    gradient(Plain(padding)),
  )

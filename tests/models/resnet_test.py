import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax.models import PreActResNet
from flowkd_jax.models import resnet18
from flowkd_jax.models._resnet import small_map

TINY = PreActResNet(stage_sizes=(1, 1), width=2, num_classes=3)


def images_of(shape=(4, 8, 8, 1)):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def variables_of(model, images):
  """Random variables; compiling the initialisation takes longer than the test."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree.map(
    lambda v: jnp.asarray(rng.uniform(0.1, 0.5, v.shape), v.dtype), shapes
  )


def shapes_of(model, images):
  images = jax.ShapeDtypeStruct(images, jnp.float32)
  (logits, state) = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False, mutable=True),
    images,
  )
  taps = {name: tap[0].shape for name, tap in state["intermediates"].items()}
  leaves = jax.tree.leaves(state["params"])
  return logits.shape, taps, sum(leaf.size for leaf in leaves)


def test_resnet18_has_the_sizes_of_the_paper():
  logits, taps, parameters = shapes_of(resnet18(), (2, 32, 32, 3))
  assert parameters == 11_171_274
  assert logits == (2, 10)
  assert set(taps) == set(resnet18().taps)
  assert taps == {
    "stage_1": (2, 4, 4, 64),
    "stage_2": (2, 4, 4, 128),
    "stage_3": (2, 4, 4, 256),
    "stage_4": (2, 4, 4, 512),
    "pooled": (2, 512),
  }


@pytest.mark.parametrize(("size", "sides"), [(8, (4, 4)), (7, (4, 4)), (5, (4, 3))])
def test_resnet_takes_small_images(size, sides):
  logits, taps, _ = shapes_of(TINY, (4, size, size, 1))
  assert logits == (4, 3)
  assert taps == {
    "stage_1": (4, sides[0], sides[0], 2),
    "stage_2": (4, sides[1], sides[1], 4),
    "pooled": (4, 4),
  }


@pytest.mark.slow
def test_resnet_computes_in_bfloat16_with_float32_parameters():
  model = TINY.clone(dtype=jnp.bfloat16)
  variables = variables_of(model, images_of())

  def run(model):
    return jax.jit(
      lambda x: model.apply(
        variables, x, train=True, mutable=["batch_stats", "intermediates"]
      )
    )(images_of())

  logits, state = run(model)
  stored = jax.tree.leaves((variables, state["batch_stats"], logits))
  assert {leaf.dtype for leaf in stored} == {jnp.dtype("float32")}
  taps = jax.tree.leaves(state["intermediates"])
  assert {tap.dtype for tap in taps} == {jnp.dtype("bfloat16")}
  np.testing.assert_allclose(logits, run(TINY)[0], rtol=0.03, atol=0.03)


@pytest.mark.slow
def test_resnet_does_not_depend_on_the_number_of_devices():
  images = images_of()
  mask = jnp.array([True, True, True, False])
  spoilt = jnp.where(mask[:, None, None, None], images, jnp.nan)
  variables = variables_of(TINY, images)

  def train(axis_name):
    return lambda x, mask: TINY.clone(axis_name=axis_name).apply(
      variables, x, train=True, mask=mask, mutable=["batch_stats"]
    )

  logits, state = jax.jit(
    jax.vmap(train("batch"), axis_name="batch", out_axes=(0, None))
  )(spoilt.reshape(2, 2, 8, 8, 1), mask.reshape(2, 2))
  expected, expected_state = jax.jit(train(None))(images[:3], None)
  np.testing.assert_allclose(logits.reshape(4, 3)[:3], expected, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    state,
    expected_state,
  )


def test_resnet_rejects_bad_input():
  with pytest.raises(ValueError, match=r"images: expected a non-empty array"):
    TINY.init(jax.random.key(0), images_of((8, 8, 1)))


def test_taps_are_averaged_down_and_never_up():
  x = images_of((2, 8, 12, 3))
  expected = x.reshape(2, 4, 2, 4, 3, 3).mean((2, 4))
  np.testing.assert_allclose(small_map(x), expected, atol=1e-6)
  x = images_of((2, 6, 3, 1))
  expected = jnp.stack(
    [x[:, i:j].mean(1) for i, j in ((0, 2), (1, 3), (3, 5), (4, 6))], 1
  )
  np.testing.assert_allclose(small_map(x), expected, atol=1e-6)

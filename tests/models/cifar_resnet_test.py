"""Residual networks for small images: sizes, taps, devices, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import models
from tests.models.tiny import TINY
from tests.models.tiny import images_of
from tests.models.tiny import parameters_of
from tests.models.tiny import sown_shapes
from tests.models.tiny import variables_of


@pytest.mark.slow
@pytest.mark.parametrize(
  ("depth", "parameters"), [(20, 272_474), (56, 855_770), (110, 1_730_714)]
)
def test_networks_have_the_sizes_of_the_paper(depth, parameters):
  # He et al., Table 6: 0.27M, 0.85M, 1.7M; by hand, with option B in two places.
  assert parameters_of(models.cifar_resnet(depth)) == parameters


@pytest.mark.slow
def test_resnet110_has_the_size_of_the_ensemble_paper():
  assert parameters_of(models.cifar_resnet(110, num_classes=100)) == 1_736_564


@pytest.mark.slow
def test_stem_may_halve_the_map():
  images = images_of((2, 64, 64, 3))
  whole, strided = (models.cifar_resnet(8, width=2, stem_stride=n) for n in (1, 2))
  variables = variables_of(whole, images)
  assert parameters_of(whole) == parameters_of(strided)
  # Against the whole stem's own map, every other place of it.
  maps = [
    model.apply(
      variables, images, capture_intermediates=lambda module, _: module.name == "stem"
    )[1]["intermediates"]["stem"]["__call__"][0]
    for model in (whole, strided)
  ]
  np.testing.assert_allclose(maps[0][:, ::2, ::2], maps[1], rtol=1e-5, atol=1e-5)


def test_taps_are_the_stages_and_the_representation():
  model = models.cifar_resnet(8, width=2)
  images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
  assert sown_shapes(model, images) == {
    "stage_1": (4, 4, 4, 2),
    "stage_2": (4, 4, 4, 4),
    "stage_3": (4, 4, 4, 8),
    "pooled": (4, 8),
  }


@pytest.mark.slow
def test_block_is_two_convolutions_and_a_projected_shortcut():
  images = images_of()
  variables = variables_of(TINY, images)
  host = jax.tree.map(lambda v: np.asarray(v, np.float64), variables)
  params, stats = host["params"], host["batch_stats"]

  def convolve(x, params, stats, *, stride=1):
    kernel = params["conv"]["kernel"]
    side = kernel.shape[0]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))
    x = np.einsum("bhwcij,ijcd->bhwd", windows[:, ::stride, ::stride], kernel)
    norm, running = params["norm"], stats["norm"]
    x = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5)
    return x * norm["scale"] + norm["bias"]

  def block(x, name, stride):
    own = params["body"][name], stats["body"][name]
    layer = lambda x, part, **options: convolve(
      x, own[0][part], own[1][part], **options
    )
    shortcut = layer(x, "shortcut", stride=stride) if "shortcut" in own[0] else x
    x = np.maximum(layer(x, "conv_1", stride=stride), 0)
    return np.maximum(layer(x, "conv_2") + shortcut, 0)

  x = np.maximum(
    convolve(np.asarray(images, np.float64), params["stem"], stats["stem"]), 0
  )
  assert "shortcut" not in params["body"]["stage_1_block_1"]
  x = block(x, "stage_1_block_1", 1)
  x = block(x, "stage_2_block_1", 2).mean((1, 2))
  classifier = params["body"]["classifier"]
  expected = x @ classifier["kernel"] + classifier["bias"]
  np.testing.assert_allclose(TINY.apply(variables, images), expected, rtol=1e-4)


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
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, expected_state
  )


def test_logits_and_parameters_stay_float32_in_bfloat16():
  model = models.shrinking_ensemble(TINY.clone(dtype=jnp.bfloat16), 2)
  images = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)
  logits, variables = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, mutable=True), images
  )
  sown = variables.pop("intermediates")
  stored = jax.tree.leaves((variables, logits))
  assert {leaf.dtype for leaf in stored} == {jnp.dtype("float32")}
  assert sown["student_1_logits"][0].dtype == jnp.float32
  assert sown["student_2_stage_1"][0].dtype == sown["pooled"][0].dtype == jnp.bfloat16


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depths_that_do_not_exist_are_refused(depth):
  with pytest.raises(ValueError, match=rf"depth: expected 6n \+ 2 .* got {depth}"):
    models.cifar_resnet(depth)


def test_images_of_another_rank_are_refused():
  with pytest.raises(ValueError, match="images: expected a non-empty array"):
    TINY.init(jax.random.key(0), images_of((8, 8, 1)))


@pytest.mark.slow
def test_initializer_is_that_of_walawalkar_or_of_repdistiller():
  images = jnp.ones((1, 4, 4, 3))
  for initializer, kernel, classifier in (
    ("xavier", 2 / (9 * 64 + 9 * 32), 2 / (64 + 200)),
    ("fan_out", 2 / (9 * 64), 1 / 64 / 3),
  ):
    model = models.cifar_resnet(8, width=16, num_classes=200, initializer=initializer)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]["body"]
    drawn = params["stage_3_block_1"]["conv_1"]["conv"]["kernel"]
    np.testing.assert_allclose(np.var(drawn), kernel, rtol=0.05)
    np.testing.assert_allclose(
      np.var(params["classifier"]["kernel"]), classifier, rtol=0.05
    )
    limit = 0 if initializer == "xavier" else 1 / np.sqrt(64)
    largest = np.abs(params["classifier"]["bias"]).max()
    assert 0.9 * limit <= largest <= limit


def test_unknown_initializers_are_refused():
  model = TINY.clone(initializer="normal")
  with pytest.raises(ValueError, match="initializer: expected one of 'xavier', 'fan"):
    model.init(jax.random.key(0), images_of())

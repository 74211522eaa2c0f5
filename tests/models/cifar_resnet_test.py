"""Residual networks for small images, in the widths of an ensemble, with branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models

TINY = models.CifarResNet(num_blocks=1, widths=(2, 3), stem_width=2, num_classes=3)


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


def parameters_of(model, size=32):
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def sown_shapes(model, images, taps=None):
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return capture.tap_shapes(model, shapes, images, taps=taps)


# The network ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("depth", "parameters"), [(20, 272_474), (56, 855_770), (110, 1_730_714)]
)
def test_networks_have_the_sizes_of_the_paper(depth, parameters):
  # He et al., Table 6: 0.27M, 0.85M, 1.7M; by hand, with option B in two places.
  assert parameters_of(models.cifar_resnet(depth)) == parameters


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


# The ensemble -----------------------------------------------------------------


@pytest.mark.slow
def test_students_have_the_shares_of_the_paper():
  # Walawalkar et al., Table 1, ResNet-110 on CIFAR-10.
  ensemble = models.shrinking_ensemble(models.cifar_resnet(110), 5)
  assert ensemble.student_widths[4] == (3, 6, 12)
  first, *others = (
    parameters_of(models.student_network(ensemble, number)) for number in range(1, 6)
  )
  shares = [round(100 * count / first, 2) for count in others]
  assert shares == [62.79, 35.26, 15.15, 3.64]


def test_students_share_the_stem_and_sow_what_trains_them():
  ensemble = models.shrinking_ensemble(TINY, 2)
  assert models.student_network(ensemble, 1) == TINY
  thin = models.student_network(ensemble, 2)
  assert (thin.widths, thin.stem_width) == ((1, 1), 2)
  total = parameters_of(TINY) + parameters_of(thin)
  stem = 9 * 3 * 2 + 2 * 2
  assert parameters_of(ensemble) == total - stem
  assert sown_shapes(ensemble, images_of()) == {"pooled": (4, 3 + 1)}
  taps = (*ensemble.student_logits, *ensemble.student_maps[1])
  assert sown_shapes(ensemble, images_of(), taps) == {
    "student_1_logits": (4, 3),
    "student_2_logits": (4, 3),
    "student_2_stage_1": (4, 8, 8, 1),
    "student_2_stage_2": (4, 4, 4, 1),
  }


@pytest.mark.slow
def test_ensemble_gives_the_mean_of_its_students_each_with_the_stem():
  ensemble, images = models.shrinking_ensemble(TINY, 2), images_of()
  variables = variables_of(ensemble, images)
  alone = [
    models.student_network(ensemble, number).apply(
      models.student_variables(variables, number), images
    )
    for number in (1, 2)
  ]
  np.testing.assert_allclose(
    ensemble.apply(variables, images), (alone[0] + alone[1]) / 2, rtol=1e-5
  )


def test_impossible_ensembles_are_refused():
  with pytest.raises(ValueError, match="num_students: expected 2 or more, got 1"):
    models.shrinking_ensemble(TINY, 1)
  with pytest.raises(ValueError, match=r"3 students need at least 3 channels"):
    models.shrinking_ensemble(TINY, 3)
  with pytest.raises(TypeError, match="network: expected a CifarResNet.*got CNN"):
    models.shrinking_ensemble(models.CNN(), 2)


# Branches ---------------------------------------------------------------------


def test_branches_are_copies_of_the_remaining_stages():
  backbone = models.cifar_resnet(14, width=2)
  branched = models.with_branches(backbone, 40)
  images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
  shapes = jax.eval_shape(branched.init, jax.random.key(0), images)["params"]
  own = shapes["body"]
  for branch, copied in (("branch_1_body", (2, 3)), ("branch_2_body", (3,))):
    assert set(shapes[branch]) == {"classifier"} | {
      f"stage_{i}_block_{j}" for i in range(1, len(copied) + 1) for j in (1, 2)
    }
    for i, stage in enumerate(copied, start=1):
      for j in (1, 2):
        copy = shapes[branch][f"stage_{i}_block_{j}"]
        assert copy == own[f"stage_{stage}_block_{j}"]
  # One more stage, of the last width.
  extra = shapes["branch_3_body"]["stage_1_block_1"]
  assert extra == own["stage_3_block_2"]
  for branch in ("branch_1_body", "branch_2_body", "branch_3_body"):
    assert shapes[branch]["classifier"]["kernel"].shape == (8, 40)
  assert sown_shapes(branched, images, branched.branches) == dict.fromkeys(
    ("branch_1", "branch_2", "branch_3"), (4, 40)
  )


def test_branches_leave_the_backbone_as_it_is():
  branched, images = models.with_branches(TINY, 12), images_of()
  assert models.backbone(branched) == TINY
  variables = variables_of(branched, images)
  logits, taps = capture.apply_with_taps(branched, variables, images)
  expected, expected_taps = capture.apply_with_taps(
    TINY, models.backbone_variables(variables), images
  )
  np.testing.assert_array_equal(logits, expected)
  jax.tree.map(np.testing.assert_array_equal, taps, expected_taps)


@pytest.mark.slow
def test_backbone_starts_from_the_same_weights_with_branches_and_without():
  images = images_of()
  alone = capture.init(TINY, jax.random.key(3), images)
  branched = capture.init(models.with_branches(TINY, 12), jax.random.key(3), images)
  jax.tree.map(
    np.testing.assert_array_equal, models.backbone_variables(branched), alone
  )


def test_frozen_backbone_stays_in_evaluation_mode():
  branched = models.with_branches(TINY, 12, frozen_backbone=True)
  images = images_of()
  variables = variables_of(branched, images)
  logits, updated = branched.apply(
    variables, images, train=True, mutable=["batch_stats"]
  )
  np.testing.assert_allclose(logits, branched.apply(variables, images), rtol=1e-6)
  before, after = variables["batch_stats"], updated["batch_stats"]
  for part in before:
    same = jax.tree.map(
      lambda a, b: bool((np.asarray(a) == b).all()), before[part], after[part]
    )
    assert all(jax.tree.leaves(same)) == (part in ("stem", "body"))


def test_branches_on_branches_are_refused():
  branched = models.with_branches(TINY, 12)
  with pytest.raises(TypeError, match="without branches.*got BranchedResNet"):
    models.with_branches(branched, 12)

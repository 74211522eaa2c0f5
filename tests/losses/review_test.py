"""Knowledge review: the authors' values, sizes, and the learnt fusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files


def _taps(golden, side):
  """Maps from shallow to deep."""
  count = sum(name.startswith(f"{side}_") for name in golden.files)
  return [golden_files.channels_last(golden[f"{side}_{i}"]) for i in range(count)]


@pytest.mark.slow
def test_authors_context_loss_is_reproduced(x64):
  golden = golden_files.load("reviewkd_hcl_1")
  student, teacher = _taps(golden, "student"), _taps(golden, "teacher")

  def values(student):
    pairs = zip(student, teacher, strict=True)
    each = [losses.hierarchical_context(*pair) for pair in pairs]
    return sum(each), each

  (_, each), gradients = jax.jit(jax.value_and_grad(values, has_aux=True))(student)
  golden_files.assert_near(np.array(each), golden["values_per_level"])
  for gradient, expected in zip(gradients, _taps(golden, "grad_student"), strict=True):
    golden_files.assert_near(gradient, expected)


def _normalized(golden, name):
  """A convolution and its normalisation in evaluation as one affine convolution."""
  scale = golden[f"param.{name}.1.weight"]
  variance = golden[f"buffer.{name}.1.running_var"]
  scale = scale / np.sqrt(variance + golden["bn_epsilon"])
  mean = golden[f"buffer.{name}.1.running_mean"]
  return {
    "kernel": golden_files.kernel(golden[f"param.{name}.0.weight"]) * scale,
    "bias": golden[f"param.{name}.1.bias"] - mean * scale,
  }


def _level(golden, name):
  layers = {
    "reduce": _normalized(golden, f"{name}.conv1"),
    "output": _normalized(golden, f"{name}.conv2"),
  }
  if f"param.{name}.att_conv.0.weight" in golden.files:
    layers["attention"] = {
      "kernel": golden_files.kernel(golden[f"param.{name}.att_conv.0.weight"]),
      "bias": golden[f"param.{name}.att_conv.0.bias"],
    }
  return layers


@pytest.mark.slow
def test_authors_fusion_is_reproduced(x64):
  golden = golden_files.load("reviewkd_abf_0")
  student, teacher = _taps(golden, "student"), _taps(golden, "teacher")
  count = len(student)
  levels = [_level(golden, f"abfs.{count - 1 - i}") for i in range(count)]

  def loss(student, params):
    return losses.review_kd(student, teacher, params=params)

  evaluate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  value, (gradients, learnt) = evaluate(student, {"levels": levels})
  golden_files.assert_near(value, golden["value"])
  for gradient, expected in zip(gradients, _taps(golden, "grad_student"), strict=True):
    golden_files.assert_near(gradient, expected)
  for i in range(count):
    name = f"grad.abfs.{count - 1 - i}"
    actual = learnt["levels"][i]["reduce"]["bias"]
    golden_files.assert_near(actual, golden[f"{name}.conv1.1.bias"])
    if i < count - 1:
      actual = learnt["levels"][i]["attention"]["kernel"]
      expected = golden_files.kernel(golden[f"{name}.att_conv.0.weight"])
      golden_files.assert_near(actual, expected)


def _random_taps(*shapes, seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.standard_normal((6, *x)), jnp.float32) for x in shapes]


STUDENT = _random_taps((6, 4, 3), (3, 3, 5), (4,))
TEACHER = _random_taps((4, 6, 5), (5, 2, 2), (7,), seed=1)
SHAPES = [[tap.shape for tap in taps] for taps in (STUDENT, TEACHER)]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_fusion_takes_any_sizes_and_extreme_maps(scale):
  params = losses.review_kd_init(jax.random.key(0), *SHAPES, width=4)
  loss = jax.jit(jax.value_and_grad(losses.review_kd, argnums=(0, 1)))
  for sides in (
    ([scale * tap for tap in STUDENT], TEACHER),
    (STUDENT, [scale * tap for tap in TEACHER]),
  ):
    value, gradients = loss(*sides, params=params)
    assert not np.isnan(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_every_parameter_of_the_fusion_is_learnt():
  params = losses.review_kd_init(jax.random.key(0), *SHAPES)
  assert params["levels"][0]["reduce"]["kernel"].shape == (3, 4)
  loss = lambda params: losses.review_kd(STUDENT, TEACHER, params=params)
  gradients = jax.jit(jax.grad(loss))(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_vectors_are_maps_of_one_position():
  student, teacher = STUDENT[2], TEACHER[2][:, :4]
  expected = ((student - teacher) ** 2).mean()
  actual = losses.hierarchical_context(student, teacher)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_wrong_taps_are_refused():
  params = losses.review_kd_init(jax.random.key(0), *SHAPES)
  with pytest.raises(ValueError, match="got 2 in student, 3 in teacher, 3 in params"):
    losses.review_kd(STUDENT[1:], TEACHER, params=params)
  with pytest.raises(
    ValueError, match="expected the same number of taps.* got 0 in student"
  ):
    losses.review_kd_init(jax.random.key(0), [], [])
  with pytest.raises(TypeError, match="student: the order of the taps matters here"):
    losses.review_kd(dict(enumerate(STUDENT)), TEACHER, params=params)
  with pytest.raises(ValueError, match=r"reduce kernel: expected shape \(5, 4\)"):
    losses.review_kd(STUDENT[1:2] + STUDENT[1:], TEACHER, params=params)
  with pytest.raises(
    ValueError, match="expected the same number of channels, got 5 and 2"
  ):
    losses.review_kd(STUDENT, TEACHER[1:2] + TEACHER[1:], params=params)

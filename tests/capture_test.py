import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax.models import CNN

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
STUDENT = CNN(width=2, num_blocks=2, padding="SAME")


class Inner(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3)(x)
    self.sow("intermediates", "act", x)
    return x


class Stranger(nn.Module):
  """A third-party model: nested modules, no `taps`, no `mask`."""

  @nn.compact
  def __call__(self, images, train):
    x = nn.Dense(3)(images.reshape(images.shape[0], -1))
    self.sow("intermediates", "zeroth", x)
    x = nn.Dropout(0.5, deterministic=not train)(x)
    x = Inner(name="second")(Inner(name="first")(x))
    # Last value wins: a bare array instead of a tuple.
    self.sow("intermediates", "bare", x, reduce_fn=lambda _, new: new, init_fn=tuple)
    return x


class Twice(nn.Module):
  @nn.compact
  def __call__(self, images, train):
    inner = Inner(name="shared")
    return inner(inner(images.reshape(images.shape[0], -1)[:, :3]))


class Scanned(nn.Module):
  """`nn.scan` drops what is sown unless told otherwise."""

  @nn.compact
  def __call__(self, images, train):
    def body(module, carry, _):
      return module(carry), None

    loop = nn.scan(
      body, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
    )
    x, _ = loop(Inner(name="shared"), images[:, :3, 0, 0], None)
    return x


@functools.cache  # compiling the initialisation takes longer than the tests
def prepared(model):
  return capture.init(model, jax.random.key(0), IMAGES)


def test_apply_with_taps_returns_all_in_order():
  variables = prepared(STUDENT)
  logits, taps = capture.apply_with_taps(STUDENT, variables, IMAGES)
  assert tuple(taps) == STUDENT.taps
  assert [tap.shape for tap in taps.values()] == [
    (4, 4, 4, 2),
    (4, 2, 2, 4),
    (4, 16),
  ]
  np.testing.assert_allclose(
    logits, STUDENT.apply(variables, IMAGES, train=False), atol=1e-6
  )


def test_apply_with_taps_selects_in_the_order_asked_for():
  _, taps = capture.apply_with_taps(
    STUDENT, prepared(STUDENT), IMAGES, taps=["dense", "block_1"]
  )
  assert list(taps) == ["dense", "block_1"]


def test_apply_with_taps_returns_updated_collections():
  variables = prepared(STUDENT)
  mask = jnp.array([True, True, True, False])
  (logits, taps), updated = capture.apply_with_taps(
    STUDENT,
    variables,
    IMAGES,
    train=True,
    mask=mask,
    mutable=["batch_stats"],
  )
  expected, state = STUDENT.apply(
    variables, IMAGES, train=True, mask=mask, mutable=["batch_stats"]
  )
  assert set(updated) == {"batch_stats"}
  assert tuple(taps) == STUDENT.taps
  for actual, wanted in ((logits, expected), (updated, state)):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), actual, wanted
    )
  (_, _), same = capture.apply_with_taps(
    STUDENT, variables, IMAGES, train=True, mutable="batch_stats"
  )
  assert set(same) == {"batch_stats"}


def test_apply_with_taps_lets_gradients_through():
  variables = prepared(STUDENT)

  def loss(params):
    _, taps = capture.apply_with_taps(
      STUDENT, {**variables, "params": params}, IMAGES, taps=["block_2"]
    )
    return jnp.square(taps["block_2"]).sum()

  grads = jax.jit(jax.grad(loss))(variables["params"])
  assert np.abs(grads["conv_1"]["kernel"]).sum() > 0
  assert np.abs(grads["classifier"]["kernel"]).sum() == 0


def test_apply_with_taps_takes_models_of_others():
  model = Stranger()
  variables = prepared(model)
  output, taps = capture.apply_with_taps(model, variables, IMAGES)
  assert list(taps) == ["zeroth", "first/act", "second/act", "bare"]
  np.testing.assert_array_equal(output, taps["bare"])
  _, one = capture.apply_with_taps(
    model,
    variables,
    IMAGES,
    taps=["second/act"],
    train=True,
    rngs={"dropout": jax.random.key(1)},
  )
  assert list(one) == ["second/act"]


def test_apply_with_taps_ignores_intermediates_handed_in():
  variables = prepared(STUDENT)
  stale = {"intermediates": {"dense": (jnp.zeros((4, 16)),)}}
  _, taps = capture.apply_with_taps(STUDENT, {**variables, **stale}, IMAGES)
  assert tuple(taps) == STUDENT.taps


def test_apply_with_taps_numbers_what_is_sown_twice():
  model = Twice()
  variables = prepared(model)
  output, taps = capture.apply_with_taps(model, variables, IMAGES)
  assert list(taps) == ["shared/act/0", "shared/act/1"]
  np.testing.assert_array_equal(output, taps["shared/act/1"])
  with pytest.raises(ValueError, match=r"it sowed shared/act/0, shared/act/1"):
    capture.apply_with_taps(model, variables, IMAGES, taps=["shared/act"])


def test_apply_with_taps_names_what_there_is():
  with pytest.raises(
    ValueError,
    match=r"CNN did not sow blok_1; it sowed block_1, block_2, dense; did you "
    r"mean block_1 or block_2\?",
  ):
    capture.apply_with_taps(
      STUDENT, prepared(STUDENT), IMAGES, taps=["blok_1", "dense"]
    )


def test_apply_with_taps_notices_what_scan_drops():
  model = Scanned()
  with pytest.raises(ValueError, match=r"sowed nothing \(inside nn\.scan"):
    capture.apply_with_taps(model, prepared(model), IMAGES, taps=["shared/act"])


def test_init_leaves_out_intermediates():
  variables = prepared(STUDENT)
  assert set(variables) == {"params", "batch_stats"}
  expected = jax.eval_shape(STUDENT.init, jax.random.key(0), IMAGES)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)


def test_tap_shapes_computes_nothing():
  variables = prepared(STUDENT)
  shapes = capture.tap_shapes(STUDENT, variables, IMAGES)
  assert list(shapes.items()) == [
    ("block_1", (4, 4, 4, 2)),
    ("block_2", (4, 2, 2, 4)),
    ("dense", (4, 16)),
  ]
  abstract = jax.eval_shape(lambda: variables)
  images = jax.ShapeDtypeStruct((9, 8, 8, 1), jnp.float32)
  assert capture.tap_shapes(STUDENT, abstract, images, taps=["dense"]) == {
    "dense": (9, 16)
  }

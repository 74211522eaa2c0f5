import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax.capture import _linen
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_apply_with_taps_selects_in_the_order_asked_for():
  _, taps = capture.apply_with_taps(
    STUDENT, prepared(STUDENT), IMAGES, taps=["dense", "block_1"]
  )
  assert list(taps) == ["dense", "block_1"]


@pytest.mark.slow
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


@pytest.mark.slow
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
  with pytest.raises(ValueError, match=r"it sows shared/act/0, shared/act/1 and"):
    capture.apply_with_taps(model, variables, IMAGES, taps=["shared/act"])


def test_apply_with_taps_names_what_there_is():
  with pytest.raises(
    ValueError,
    match=r"CNN has no blok_1; it sows block_1, block_2, dense and has the modules "
    r"conv_1, norm_1, .*, classifier; did you mean block_1 or block_2\?",
  ):
    capture.apply_with_taps(
      STUDENT, prepared(STUDENT), IMAGES, taps=["blok_1", "dense"]
    )


@pytest.mark.parametrize(
  ("taps", "match"),
  [
    ("dense", "taps: expected a sequence of names, .* got the str 'dense'"),
    ({"dense"}, "taps: expected a sequence of names, .* got the set"),
    (3, "taps: expected a sequence of names, .* got the int 3"),
    (["dense", 1, ("a",)], r"taps: expected names that are strings, got 1, \('a',\)"),
  ],
)
def test_taps_that_are_no_names_are_refused(taps, match):
  with pytest.raises(TypeError, match=match):
    capture.apply_with_taps(STUDENT, {}, IMAGES, taps=taps)
  with pytest.raises(TypeError, match=match):
    capture.with_taps(STUDENT, taps)


@pytest.mark.slow
def test_layers_of_a_scan_are_numbered_whatever_it_drops():
  model = Scanned()
  variables = prepared(model)
  output, taps = capture.apply_with_taps(
    model, variables, IMAGES, taps=["shared/act/*", "shared/1"]
  )
  dense = jax.device_get(variables["params"]["shared"]["Dense_0"])
  x, expected = IMAGES[:, :3, 0, 0], []
  for layer in range(2):
    x = x @ dense["kernel"][layer] + dense["bias"][layer]
    expected.append(x)
  assert list(taps) == ["shared/act/0", "shared/act/1", "shared/1"]
  for tap, wanted in zip(taps.values(), [*expected, expected[1]], strict=True):
    np.testing.assert_allclose(tap, wanted, atol=1e-5)
  np.testing.assert_allclose(output, expected[1], atol=1e-5)
  with pytest.raises(ValueError, match=r"no shared/act; it sows shared/act/0, shared"):
    capture.apply_with_taps(model, variables, IMAGES, taps=["shared/act"])


class Layer(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    x = nn.relu(Inner(name="inner")(x))
    self.sow("intermediates", "after", x)
    return x, None


class Layers(nn.Module):
  """Rematerialised layers in a scan that keeps what is sown."""

  depth: int = 4  # As many as there are rows: axes cannot be told by their length.

  @nn.compact
  def __call__(self, images, train):
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True},
      length=self.depth,
    )
    x, _ = layers(name="layers")(images[:, :3, 0, 0], None)
    return nn.Dense(2, name="head")(x)


@pytest.mark.slow
def test_layers_of_a_rematerialised_scan_let_gradients_through():
  model = Layers()
  variables = prepared(model)

  @jax.jit
  def taps(params):
    wanted = ["layers/after/*", "layers/inner/2", "layers/2"]
    return capture.apply_with_taps(model, {"params": params}, IMAGES, taps=wanted)[1]

  inner = jax.device_get(variables["params"]["layers"]["inner"]["Dense_0"])
  x, expected = IMAGES[:, :3, 0, 0], {}
  for layer in range(4):
    x = x @ inner["kernel"][layer] + inner["bias"][layer]
    expected[f"layers/inner/{layer}"] = x
    x = np.maximum(x, 0)
    expected |= {f"layers/after/{layer}": x, f"layers/{layer}": x}
  found = taps(variables["params"])
  for name, tap in found.items():
    np.testing.assert_allclose(tap, expected[name], atol=1e-5, err_msg=name)
  assert len(found) == 6
  names = [t.name for t in capture.list_taps(model, variables, IMAGES)]
  assert names[4:8] == [f"layers/after/{layer}" for layer in range(4)]
  assert names[-4:] == [*(f"layers/{layer}" for layer in range(1, 4)), "head"]

  grads = jax.jit(jax.grad(lambda p: jnp.square(taps(p)["layers/inner/2"]).sum()))(
    variables["params"]
  )
  sizes = np.abs(grads["layers"]["inner"]["Dense_0"]["kernel"]).sum((1, 2))
  assert (sizes[:3] > 0).all()
  assert sizes[3] == 0


class Silent(nn.Module):
  """Sows nothing; two of its modules stand in a third."""

  @nn.compact
  def __call__(self, images, train):
    x = images.reshape(images.shape[0], -1)
    for number in range(2):
      x = nn.Dense(4 + number, name=f"layer_{number}")(x)
    return Inner(name="head")(nn.remat(Inner)(name="inner")(x))


@pytest.mark.slow
def test_apply_with_taps_captures_modules_of_models_that_sow_nothing():
  model = Silent()
  variables = prepared(model)
  output, taps = capture.apply_with_taps(
    model, variables, IMAGES, taps=["head", "layer_*", "inner/**"]
  )
  shapes = {name: tap.shape for name, tap in taps.items()}
  assert shapes == {
    "head": (4, 3),
    "layer_0": (4, 4),
    "layer_1": (4, 5),
    "inner": (4, 3),
    "inner/Dense_0": (4, 3),
    "inner/act": (4, 3),
  }
  assert list(shapes)[:3] == ["head", "layer_0", "layer_1"]
  np.testing.assert_array_equal(output, taps["head"])
  layer = variables["params"]["layer_0"]
  expected = IMAGES.reshape(4, -1) @ layer["kernel"] + layer["bias"][None]
  np.testing.assert_allclose(taps["layer_0"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_captured_modules_let_gradients_through():
  model = Silent()
  variables = prepared(model)

  def loss(params):
    _, taps = capture.apply_with_taps(
      model, {"params": params}, IMAGES, taps=["**/Dense_0"]
    )
    return sum(jnp.square(tap).sum() for tap in taps.values())

  grads = jax.grad(loss)(variables["params"])
  assert np.abs(grads["layer_0"]["kernel"]).sum() > 0


@pytest.mark.slow
def test_stars_match_within_a_part_and_double_stars_across():
  model = Silent()
  for pattern, expected in {
    "inner*": ["inner"],
    "*/Dense_0": ["head/Dense_0", "inner/Dense_0"],
    "**/layer_?": ["layer_0", "layer_1"],
    "inn*/*": ["inner/Dense_0", "inner/act"],
  }.items():
    shapes = capture.tap_shapes(model, prepared(model), IMAGES, taps=[pattern])
    assert sorted(shapes) == expected, pattern
  with pytest.raises(ValueError, match=r"Silent has no layers_\*; .*mean layer_"):
    capture.apply_with_taps(model, prepared(model), IMAGES, taps=["layers_*"])


def test_list_taps_tells_what_a_model_offers():
  taps = capture.list_taps(STUDENT, prepared(STUDENT), IMAGES)
  assert [tap.name for tap in taps if tap.sown] == ["block_1", "block_2", "dense"]
  assert [tap.name for tap in taps if not tap.sown][0] == "conv_1"
  by_name = {tap.name: tap for tap in taps}
  dense = by_name["dense"]
  assert dense.shape == (4, 16)
  assert (dense.width, dense.row_bytes, dense.pair_flops) == (16, 64, 32)
  _, found = capture.apply_with_taps(
    STUDENT, prepared(STUDENT), IMAGES, taps=list(by_name)
  )
  assert {name: tap.shape for name, tap in found.items()} == {
    tap.name: tap.shape for tap in taps
  }


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


class Listed(nn.Module):
  """A module without a hash, as one of its fields is an array."""

  scale: np.ndarray

  @nn.compact
  def __call__(self, images, train):
    return nn.Dense(2)(images.reshape(len(images), -1)) * self.scale.sum()


@pytest.mark.slow
def test_init_compiles_once_for_equal_modules():
  compiled = _linen._initializer(alone=True)
  first = prepared(CNN(width=1, num_blocks=1))
  size = compiled._cache_size()
  equal = CNN(width=1, num_blocks=1)
  second = capture.init(equal, jax.random.key(0), IMAGES)
  assert compiled._cache_size() == size
  jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.slow
def test_init_serves_modules_without_a_hash_and_within_a_compiled_function():
  module = Listed(np.ones(2, np.float32))
  alone = capture.init(module, jax.random.key(0), IMAGES)
  within = jax.jit(lambda key: capture.init(module, key, IMAGES))(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, alone, within)
  key = jax.random.key(0)
  student = jax.jit(lambda: capture.init(STUDENT, key, IMAGES))()
  jax.tree.map(np.testing.assert_array_equal, prepared(STUDENT), student)

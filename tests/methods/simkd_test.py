"""SimKD: the authors' values, what is learnt, what is exported."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.methods import _simkd
from tests.losses import golden_files
from tests.methods.first_step import first_step

pytestmark = pytest.mark.optimizer
LAST = {"f2": "f2"}
IMAGES = (2, 8, 8, 1)


@pytest.fixture(scope="module")
def network():
  """Makes a student, or with another width a teacher."""
  return lambda axis_name=None, width=2: models.CifarResNet(
    num_blocks=1,
    widths=(2, width),
    stem_width=2,
    num_classes=3,
    axis_name=axis_name,
  )


@pytest.fixture(scope="module")
def teacher(network):
  model = network(width=6)
  return methods.Network(
    model, capture.init(model, jax.random.key(7), jnp.zeros(IMAGES))
  )


def _tree(golden, conv, norm):
  """Arrays of PyTorch by our names."""
  return {
    f"{kind}_{i}": {name: golden[key] for name, key in named.items()}
    for i in (1, 2, 3)
    for kind, named in (("conv", conv(3 * (i - 1))), ("norm", norm(3 * i - 2)))
    if named
  }


def _kernels(tree):
  for name, layer in tree.items():
    if name.startswith("conv"):
      layer["kernel"] = layer["kernel"].transpose(2, 3, 1, 0)
  return tree


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_authors_projector_is_reproduced(train, x64):
  golden = golden_files.load("simkd_0")
  params = _kernels(
    _tree(
      golden,
      lambda i: {"kernel": f"param.transfer.{i}.weight"},
      lambda i: {
        "scale": f"param.transfer.{i}.weight",
        "bias": f"param.transfer.{i}.bias",
      },
    )
  )
  stats = _tree(
    golden,
    lambda i: {},
    lambda i: {name: f"buffer.transfer.{i}.running_{name}" for name in ("mean", "var")},
  )
  student, teacher = (
    golden_files.channels_last(golden[x]) for x in ("student", "teacher")
  )
  projector = _simkd.Projector(teacher.shape[3], int(golden["factor"]))

  def loss(student):
    maps, _ = projector.apply(
      {"params": params, "batch_stats": stats},
      student,
      teacher.shape[1:3],
      train=train,
      mutable=["batch_stats"],
    )
    return losses.hint(maps, jnp.asarray(teacher), reduction="elements"), maps

  evaluate = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, maps), gradient = evaluate(jnp.asarray(student))
  ending = "_train_bn" if train else ""
  # The batch normalisation of the networks is in float32.
  golden_files.assert_near(value, golden[f"value{ending}"], 1e-6)
  expected = golden_files.channels_last(golden[f"grad_student{ending}"])
  golden_files.assert_near(gradient, expected, 1e-5)
  if not train:
    logits = maps.mean((1, 2)) @ golden["classifier_weight"].T
    logits += golden["classifier_bias"][None]
    golden_files.assert_near(logits, golden["student_logits"], 1e-6)


@pytest.fixture(scope="module")
def step(network, teacher):
  """Outputs of `first_step` on a batch of 16 rows."""
  rng = np.random.default_rng(0)
  batch = {
    "image": jnp.asarray(rng.standard_normal((16, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 3, 16), jnp.int32),
    "mask": jnp.arange(16) < 11,
  }
  return batch, *first_step(methods.simkd, network, teacher, batch, pairs=LAST)


@pytest.mark.slow
def test_simkd_learns_student_and_projector_but_not_the_classifier(
  step, network, teacher
):
  batch, _, state, after, metrics = step
  moved = jax.tree.map(
    lambda old, new: np.abs(old - new).max() > 0, state.params, after.params
  )
  assert not any(jax.tree.leaves(moved["student"]["body"].pop("classifier")))
  assert moved["student"]["stem"]["conv"]["kernel"]
  assert moved["learnt"]["conv_3"]["kernel"]
  statistics = after.collections["loss_state"]["norm_1"]["mean"]
  assert np.abs(statistics).max() > 0
  _, taps = capture.apply_with_taps(*teacher, batch["image"], taps=["f2"])
  model = network()
  _, own = capture.apply_with_taps(
    model,
    {
      "params": state.params["student"],
      "batch_stats": state.collections["batch_stats"],
    },
    batch["image"],
    taps=["f2"],
    train=True,
    mask=batch["mask"],
    mutable=["batch_stats"],
  )[0]
  target = taps["f2"]
  maps, _ = _simkd.Projector(target.shape[3]).apply(
    {
      "params": state.params["learnt"],
      "batch_stats": state.collections["loss_state"],
    },
    own["f2"],
    target.shape[1:3],
    train=True,
    mask=batch["mask"],
    mutable=["batch_stats"],
  )
  expected = ((maps - target) ** 2)[:11].mean()
  np.testing.assert_allclose(metrics["loss/map"], expected, rtol=1e-4)


@pytest.mark.slow
def test_export_is_student_projector_and_classifier_of_the_teacher(step, teacher):
  batch, method, _, after, _ = step
  model, variables = method.export(after)["network"]
  assert model is method.export(after)["network"].model  # compiled once
  logits, taps = capture.apply_with_taps(model, variables, batch["image"])
  assert logits.shape == (16, 3)
  assert taps["projected"].shape[3] == taps["pooled"].shape[1]
  layer = teacher.variables["params"]["body"]["classifier"]
  expected = taps["projected"].mean((1, 2)) @ layer["kernel"]
  expected += layer["bias"][None]
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  capture.check_evaluation(model, variables, batch["image"])
  shapes = jax.tree.map(jnp.shape, dict(variables))
  fresh = capture.init(model, jax.random.key(0), batch["image"])
  assert jax.tree.map(jnp.shape, fresh) == shapes


def _make(teacher, network, **options):
  options = {"pairs": LAST, "axis_name": None} | options
  return methods.simkd(network(), teacher, optax.sgd(0.1), **options)


def test_pairs_that_do_not_fit_are_refused(network, teacher):
  with pytest.raises(ValueError, match="pairs: expected one pair, .* got 2"):
    _make(teacher, network, pairs=LAST | {"f1": "f1"})
  images = jnp.zeros(IMAGES)
  with pytest.raises(ValueError, match="as many inputs as the teacher's tap f1"):
    _make(teacher, network, pairs={"f2": "f1"}).check(images, 3)
  with pytest.raises(ValueError, match=r"expected a map .* of the student, got rows"):
    _make(teacher, network, pairs={"pooled": "f2"}).check(images, 3)


@pytest.mark.slow
def test_maps_that_the_classifier_does_not_read_are_refused(network, teacher):
  images = jnp.zeros(IMAGES)
  _make(teacher, network).check(images, 3)
  with pytest.raises(ValueError, match="the teacher's logits to be this layer"):
    _make(teacher, network, pairs={"f2": "f2_preact"}).check(images, 3)


@pytest.mark.slow
def test_micro_batches_of_equal_statistics_change_nothing(network, teacher):
  # Rows in runs of four, each run twice: both parts have the statistics of the batch.
  images = np.random.default_rng(0).standard_normal((2, 1, 4, 8, 8, 1))
  batch = {
    "image": jnp.asarray(np.tile(images, (1, 2, 1, 1, 1, 1)).reshape(16, 8, 8, 1)),
    "label": jnp.zeros(16, jnp.int32),
    "mask": jnp.ones(16, bool),
  }
  (_, _, whole, _), (_, _, parts, _) = (
    first_step(methods.simkd, network, teacher, batch, pairs=LAST, micro_batches=number)
    for number in (1, 2)
  )
  trees = whole.params, parts.params
  for one, other in zip(*map(jax.tree.leaves, trees), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)

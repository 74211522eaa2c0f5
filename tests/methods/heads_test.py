"""Networks, taps, heads and labels that do not fit are refused by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from tests.methods.contract_rows import CLASSES
from tests.methods.contract_rows import ROWS

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
OPTIMIZER = optax.sgd(0.1)
PAIRS = {"features": "features"}


class Net(nn.Module):
  """A head of some size; "turned" has the batch as its second axis."""

  classes: int = 3
  logits_of: str = "rows"

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(4)(images.reshape(len(images), -1))
    self.sow("intermediates", "features", x)
    turned = jnp.broadcast_to(x, (16, *x.shape))
    self.sow("intermediates", "turned", turned)
    self.sow("intermediates", "fixed", jnp.zeros((2, 4)))
    logits = nn.Dense(self.classes)(x)
    return {"rows": logits, "turned": logits.T, "maps": logits[:, None]}[self.logits_of]


def network(**options):
  model = Net(**options)
  shapes = jax.eval_shape(lambda: capture.init(model, jax.random.key(0), _zeros()))
  return methods.Network(model, shapes)


def _zeros():
  return jnp.zeros(IMAGES.shape)


def distilled(factory, student=None, teacher=None, **options):
  # The shapes of a teacher are enough here: nothing is computed.
  teacher = network(**(teacher or {}))
  placeholder = methods.Network(teacher.model, jax.tree.map(_of_zeros, teacher[1]))
  return factory(Net(**(student or {})), placeholder, OPTIMIZER, **options)


def _of_zeros(leaf):
  return jnp.zeros(leaf.shape, leaf.dtype)


def flow(posterior, **options):
  pairs = {"features": posterior}
  return distilled(
    methods.information_flow, pairs=pairs, weights={"features": 1.0}, **options
  )


def quadratic(**options):
  return distilled(
    methods.information_flow,
    pairs=PAIRS,
    weights={"features": 1.0},
    matching="quadratic",
    matching_options=options,
  )


KD = methods.knowledge_distillation
REFUSED = {
  "labels beyond the head": (
    lambda: methods.supervised(Net(), OPTIMIZER),
    "model: expected 10 or more classes, as the data has, got 3",
  ),
  "head of one logit": (
    lambda: methods.supervised(Net(classes=1), OPTIMIZER),
    "model: expected two logits or more, got 1, .* use two logits",
  ),
  "both heads of one logit": (
    lambda: distilled(KD, {"classes": 1}, {"classes": 1}),
    "teacher: expected two logits or more, got 1",
  ),
  "heads that differ": (
    lambda: distilled(KD, {"classes": 10}, {"classes": 11}),
    "student: expected as many logits as the teacher has, 11, got 10",
  ),
  "filtered": (
    lambda: distilled(methods.filtered_distillation),
    "student: expected 10 or more classes",
  ),
  "labels beside a hint": (
    lambda: distilled(methods.hint, pairs=PAIRS, label_weight=1.0),
    "student: expected 10 or more classes, as the data has, got 3",
  ),
  "posterior of one logit": (
    lambda: flow(methods.POSTERIOR, teacher={"classes": 1}),
    "teacher: expected two logits or more, got 1",
  ),
  "labelled posterior of five": (
    lambda: flow(methods.LABELLED_POSTERIOR, teacher={"classes": 5}),
    "teacher: expected 10 classes, as the data has, got 5",
  ),
  "labelled posterior of a thousand": (
    lambda: flow(methods.LABELLED_POSTERIOR, teacher={"classes": 1000}),
    "teacher: expected 10 classes, as the data has, got 1000",
  ),
  "quadratic flow of five": (
    lambda: quadratic(num_classes=5),
    "matching_options: num_classes: expected 10 or more classes, .* got 5",
  ),
  "quadratic flow of five at a tap": (
    lambda: quadratic(num_classes=10, taps={"features": {"num_classes": 5}}),
    "matching_options: num_classes: expected 10 or more classes, .* got 5",
  ),
  "tap without batch": (
    lambda: distilled(methods.hint, pairs={"features": "turned"}),
    r"the first axis of the tap turned of Net is not the batch: 2 .* \(16, 2, 4\), 5",
  ),
  "student tap without batch": (
    lambda: distilled(methods.hint, pairs={"turned": "features"}),
    "the first axis of the tap turned of Net is not the batch",
  ),
  "tap of a fixed size": (
    lambda: distilled(methods.similarity_preserving, pairs={"features": "fixed"}),
    r"tap fixed of Net is not the batch: 2 images give shape \(2, 4\), 5 .* \(2, 4\)",
  ),
  "logits without batch": (
    lambda: methods.supervised(Net(logits_of="turned"), OPTIMIZER),
    "the first axis of the logits of Net is not the batch",
  ),
  "logits of positions": (
    lambda: methods.supervised(Net(logits_of="maps"), OPTIMIZER),
    r"model: expected logits of shape \[batch, classes\], got \[batch, 1, 3\]",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case):
  make, match = REFUSED[case]
  method = make()
  for wrapped in (method, methods.with_trajectory(methods.averaged(method))):
    with pytest.raises(ValueError, match=match):
      wrapped.check(IMAGES, 10)


@pytest.mark.parametrize("name", ROWS)
def test_every_method_fits_its_own_classes_and_refuses_more(name):
  row = ROWS[name]
  variables = jax.tree.map(
    _of_zeros,
    jax.eval_shape(lambda: capture.init(row.network, jax.random.key(0), _zeros())),
  )
  method = row.make(OPTIMIZER, variables)
  method.check(IMAGES, CLASSES)
  reads_labels = name not in {
    "knowledge_distillation",
    "information_flow",
    "hint",
  }
  if reads_labels:
    with pytest.raises(ValueError, match="classes, as the data has, got 3"):
      method.check(IMAGES, CLASSES + 1)


@pytest.mark.parametrize(
  "make",
  [
    lambda: distilled(KD, {"classes": 1000}, {"classes": 1000}),
    lambda: distilled(methods.hint, {"classes": 1}, {"classes": 1}, pairs=PAIRS),
    lambda: flow(methods.LABELLED_POSTERIOR, teacher={"classes": 10}),
    lambda: distilled(methods.hint, teacher={"logits_of": "maps"}, pairs=PAIRS),
    lambda: quadratic(num_classes=10),
    lambda: methods.supervised(Net(classes=1000), OPTIMIZER),
  ],
)
def test_what_fits_passes(make):
  make().check(IMAGES, 10)


def test_fit_checks_before_the_first_step():
  from flowkd_jax import train

  split = data.load("digits", "train", limit=16)
  batches = data.training_batches(split, batch_size=8, seed=0, mean=(70,), std=(400,))
  with pytest.raises(ValueError, match="expected 10 or more classes, .* got 3"):
    train.fit(
      methods.supervised(Net(), OPTIMIZER), batches, epochs=1, key=jax.random.key(0)
    )

"""Models of several outputs: errors that name them, and the choice of the logits."""

import collections
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import methods

IMAGES = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)


class Pair(NamedTuple):
  features: jax.Array
  logits: jax.Array


@flax.struct.dataclass
class Record:
  logits: jax.Array
  hidden: tuple


# Form of the output, the choice that is right, and what the message proposes.
FORMS = {
  "tuple": (lambda x, y: (y, x), 0, "with_logits(model, 0)"),
  "list": (lambda x, y: [x, y], 1, "with_logits(model, 0)"),
  "dict": (lambda x, y: {"out": y, "aux": x}, "out", "with_logits(model, '"),
  "nested": (
    lambda x, y: {"heads": [x, y]},
    lambda output: output["heads"][1],
    "with_logits(model, 'heads')",
  ),
  "named": (Pair, "logits", "with_logits(model, 'logits')"),
  "object": (lambda x, y: Record(y, (x,)), "logits", "with_logits(model, 'logits')"),
  "ordered": (
    lambda x, y: collections.OrderedDict(logits=y, states=(x,)),
    "logits",
    "with_logits(model, 'logits')",
  ),
}


class LinenModel(nn.Module):
  form: str
  taps = ("hidden",)

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(5, name="hidden")(images.reshape(len(images), -1))
    return FORMS[self.form][0](x, nn.Dense(3, name="head")(x))


class NNXModel(nnx.Module):
  def __init__(self, form):
    self.form = form
    self.hidden = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
    self.head = nnx.Linear(5, 3, rngs=nnx.Rngs(1))

  def __call__(self, images):
    x = self.hidden(images.reshape(len(images), -1))
    return FORMS[self.form][0](x, self.head(x))


class EquinoxModel(eqx.Module):
  form: str = eqx.field(static=True)
  hidden: eqx.nn.Linear
  head: eqx.nn.Linear

  def __init__(self, form):
    self.form = form
    self.hidden = eqx.nn.Linear(4, 5, key=jax.random.key(0))
    self.head = eqx.nn.Linear(5, 3, key=jax.random.key(1))

  def __call__(self, image, *, key=None):
    x = self.hidden(image.reshape(-1))
    return FORMS[self.form][0](x, self.head(x))


def linen(form):
  model = LinenModel(form)
  return model, capture.init(model, jax.random.key(0), IMAGES)


def from_nnx(form):
  return capture.from_nnx(NNXModel(form), taps=["hidden"])


def from_equinox(form):
  return capture.from_equinox(EquinoxModel(form), taps=["hidden"])


FRAMEWORKS = (linen, from_nnx, from_equinox)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", FRAMEWORKS)
def test_with_logits_chooses_among_the_outputs(make, form):
  model, variables = make(form)
  _, choice, _ = FORMS[form]
  chosen = capture.with_logits(model, choice)
  expected, _ = capture.apply_with_taps(model, variables, IMAGES, taps=["head"])
  logits, taps = capture.apply_with_taps(chosen, variables, IMAGES, taps=["head"])
  assert logits.shape == (4, 3)
  np.testing.assert_array_equal(logits, taps["head"])
  assert any(leaf.shape == (4, 5) for leaf in jax.tree.leaves(expected))
  capture.check_evaluation(chosen, variables, IMAGES)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", FRAMEWORKS)
def test_several_outputs_are_refused_with_the_choice_to_make(make, form):
  model, variables = make(form)
  with pytest.raises(ValueError, match="to return its logits alone, got a") as caught:
    capture.check_evaluation(model, variables, IMAGES)
  message = str(caught.value)
  assert FORMS[form][2] in message
  assert "float32[2, 5]" in message or "float32[4, 5]" in message


@pytest.mark.parametrize("choice", ["nothing", 7])
@pytest.mark.parametrize("form", ["tuple", "dict", "named"])
def test_with_logits_names_outputs_where_the_choice_is_none_of_them(form, choice):
  model, variables = linen(form)
  model = capture.with_logits(model, choice)
  with pytest.raises(ValueError, match="logits: LinenModel has no such output .*float"):
    capture.apply_with_taps(model, variables, IMAGES)


@pytest.mark.parametrize("choice", [None, 1.0, True])
def test_with_logits_refuses_what_is_no_choice(choice):
  with pytest.raises(TypeError, match="logits: expected a position, a name or a"):
    capture.with_logits(LinenModel("tuple"), choice)


def _train(method):
  state = method.init(jax.random.key(0), jnp.asarray(IMAGES))
  batch = {
    "image": jnp.asarray(IMAGES),
    "label": jnp.array([0, 1, 2, 0]),
    "mask": jnp.ones(4, bool),
  }
  return jax.eval_shape(method.update, state, batch, method.constants)


@pytest.mark.slow
@pytest.mark.optimizer
def test_methods_name_a_student_or_teacher_of_several_outputs():
  optimizer = optax.sgd(0.1)
  student, _ = linen("tuple")
  with pytest.raises(ValueError, match="LinenModel to return its logits alone"):
    _train(methods.supervised(student, optimizer, axis_name=None))
  right = capture.with_logits(student, 0)
  teacher, variables = from_nnx("dict")
  with pytest.raises(ValueError, match="NNXModel to return its logits alone"):
    _train(
      methods.knowledge_distillation(
        right, methods.Network(teacher, variables), optimizer, axis_name=None
      )
    )
  teacher = methods.Network(capture.with_logits(teacher, "out"), variables)
  _train(methods.knowledge_distillation(right, teacher, optimizer, axis_name=None))


@pytest.mark.parametrize("make", [from_nnx, from_equinox])
@pytest.mark.parametrize("taps", [["hiden"], ["hidden", "blocks/*"], ["hidden/bias"]])
def test_wrong_taps_are_refused_when_the_model_is_made(make, taps):
  source = {from_nnx: NNXModel, from_equinox: EquinoxModel}[make]("tuple")
  convert = {from_nnx: capture.from_nnx, from_equinox: capture.from_equinox}[make]
  missing = taps[-1].replace("*", r"\*")
  match = f"taps: .*Model has no {missing}; it sows nothing and has the modules "
  with pytest.raises(ValueError, match=match):
    convert(source, taps=taps)
  model, _ = convert(source)
  with pytest.raises(ValueError, match=match):
    capture.with_taps(model, taps)


class Sowing(nnx.Module):
  """A module that sows in a function beside it."""

  def __init__(self):
    self.linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

  def __call__(self, images):
    x = images.reshape(len(images), -1)
    return self.linear(record(self, x))


def record(module, x):
  module.sow(nnx.Intermediate, "input", x)
  return x


@pytest.mark.parametrize("wrong", ["inputs", "linear/2"])
def test_check_evaluation_finds_wrong_taps_of_models_that_sow(wrong):
  model, variables = capture.from_nnx(Sowing(), taps=["input"])
  assert capture.tap_shapes(model, variables, IMAGES) == {"input": (4, 4)}
  capture.check_evaluation(model, variables, IMAGES)
  model = capture.with_taps(model, [wrong])
  with pytest.raises(ValueError, match=f"taps: Sowing has no {wrong}; it sows input"):
    capture.check_evaluation(model, variables, IMAGES)


def test_check_evaluation_finds_wrong_taps_of_linen_modules():
  model, variables = linen("tuple")
  model = capture.with_taps(capture.with_logits(model, 0), ["hiden"])
  with pytest.raises(ValueError, match="no hiden; .* did you mean hidden"):
    capture.check_evaluation(model, variables, IMAGES)

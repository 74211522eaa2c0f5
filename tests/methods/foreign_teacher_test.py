"""Teachers of other frameworks: frozen, in evaluation mode, through any method."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax import pooling

pytestmark = pytest.mark.optimizer


class NNXTeacher(nnx.Module):
  """Left in training mode, with dropout and statistics that are far from the data's."""

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.embed = nnx.Linear(8, 6, rngs=rngs)
    self.norm = nnx.BatchNorm(6, rngs=rngs)
    self.norm.mean[...] = jnp.full(6, 0.5)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(6, 3, rngs=rngs)

  def __call__(self, images):
    tokens = self.dropout(self.norm(self.embed(images[..., 0])))
    return self.head(tokens.mean(1))


class EquinoxTeacher(eqx.Module):
  embed: eqx.nn.Linear
  dropout: eqx.nn.Dropout
  head: eqx.nn.Linear

  def __init__(self):
    self.embed = eqx.nn.Linear(8, 6, key=jax.random.key(0))
    self.dropout = eqx.nn.Dropout(0.5)
    self.head = eqx.nn.Linear(6, 3, key=jax.random.key(1))

  def __call__(self, image, *, key=None):
    tokens = self.dropout(jax.vmap(self.embed)(image[..., 0]), key=key)
    return self.head(tokens.mean(0))


def _nnx_tokens(module, images):
  read = lambda variable: np.asarray(variable[...])
  x = images[..., 0] @ read(module.embed.kernel) + read(module.embed.bias)
  return (x - 0.5) / np.float32(np.sqrt(1 + module.norm.epsilon))


def _equinox_tokens(module, images):
  weight, bias = np.asarray(module.embed.weight), np.asarray(module.embed.bias)
  return images[..., 0] @ weight.T + bias


TEACHERS = {
  "nnx": (NNXTeacher, capture.from_nnx, _nnx_tokens),
  "equinox": (EquinoxTeacher, capture.from_equinox, _equinox_tokens),
}


@pytest.mark.slow
@pytest.mark.parametrize("framework", TEACHERS)
def test_student_learns_from_the_teacher_in_evaluation_mode(
  framework, network, batches
):
  make, convert, tokens_of = TEACHERS[framework]
  module = make()
  model, variables = convert(module)
  capture.check_evaluation(model, variables, batches[0]["image"])
  method = methods.information_flow(
    network(),
    methods.Network(capture.pooled(model, pooling.mean), variables),
    optax.sgd(0.1),
    pairs={"dense": "dropout"},
    weights={"dense": 1.0},
    axis_name=None,
  )
  batch = batches[0]
  state = method.init(jax.random.key(0), batch["image"])
  after, metrics = jax.jit(method.update)(state, batch, method.constants)
  student = {"params": state.params["student"], **state.collections}
  (_, taps), _ = capture.apply_with_taps(
    network(), student, batch["image"], train=True, mutable=["batch_stats"]
  )
  expected = losses.information_flow(
    [taps["dense"]], [tokens_of(module, np.asarray(batch["image"])).mean(1)]
  )
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-3)
  assert metrics["gradient_norm"] > 0
  jax.tree.map(np.testing.assert_array_equal, method.constants, dict(variables))
  assert set(after.collections) == {"batch_stats"}


@pytest.mark.slow
@pytest.mark.parametrize("framework", TEACHERS)
def test_modules_of_others_are_trained_on_labels_too(framework, network, batches):
  make, convert, _ = TEACHERS[framework]
  model, variables = convert(make())
  method = methods.supervised(model, optax.sgd(0.1), initial=variables, axis_name=None)
  state = method.init(jax.random.key(0), batches[0]["image"])
  update = jax.jit(method.update)
  values = []
  for _ in range(8):
    state, metrics = update(state, batches[0], ())
    values.append(float(metrics["loss"]))
  assert np.mean(values[-2:]) < np.mean(values[:2])
  trained = method.export(state)["network"]
  assert trained.model is model
  assert set(trained.variables) == set(variables)
  change = trained.variables["params"]
  before = variables["params"]
  assert all((change[name] != before[name]).any() for name in before)

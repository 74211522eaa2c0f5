"""Masked generative distillation: the authors' values, and its masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses
from tests.losses import golden_files

MAPS = (3, 5, 4, 2), (3, 5, 4, 6)


def _layer(golden, kind, name):
  return {
    "kernel": golden_files.kernel(golden[f"{kind}.{name}.weight"]),
    "bias": golden[f"{kind}.{name}.bias"],
  }


def _params(golden, kind):
  params = {
    "generator": [_layer(golden, kind, f"generation.{index}") for index in (0, 2)]
  }
  if f"{kind}.align.weight" in golden.files:
    params["projection"] = _layer(golden, kind, "align")
  return params


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "hidden"), [("mgd_0", "positions"), ("mgd_channel_1", "channels")]
)
def test_authors_values_and_gradients_are_reproduced(name, hidden, x64):
  golden = golden_files.load(name)
  student, teacher = (
    golden_files.channels_last(golden[x]) for x in ("student", "teacher")
  )
  mask = golden["mask"]
  kept = (mask[:, 0] if hidden == "positions" else mask[:, :, 0, 0]) > 0

  def loss(student, params):
    value = losses.mgd(student, teacher, params=params, kept=kept, hidden=hidden)
    return golden["alpha"] * value

  evaluate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  value, (gradient, learnt) = evaluate(student, _params(golden, "param"))
  golden_files.assert_near(value, golden["value"])
  expected = golden_files.channels_last(golden["grad_student"])
  golden_files.assert_near(gradient, expected)
  jax.tree.map(golden_files.assert_near, learnt, _params(golden, "grad"))


def _loss(**options):
  rng = np.random.default_rng(0)
  student, teacher = (rng.standard_normal(x).astype(np.float32) for x in MAPS)
  params = losses.mgd_init(jax.random.key(0), *MAPS)
  return losses.mgd(student, teacher, params=params, **options)


@pytest.mark.slow
def test_mask_is_drawn_by_the_key_and_the_share():
  key = jax.random.key(1)
  assert _loss(key=key) == _loss(key=key)
  assert _loss(key=key) != _loss(key=jax.random.key(2))
  whole = _loss(kept=np.ones((3, 5, 4), bool))
  np.testing.assert_allclose(_loss(key=key, hidden_share=0.0), whole, rtol=1e-6)
  nothing = _loss(kept=np.zeros((3, 5, 4), bool))
  np.testing.assert_allclose(_loss(key=key, hidden_share=1.0), nothing, rtol=1e-6)
  channels = _loss(kept=np.zeros((3, 6), bool), hidden="channels")
  np.testing.assert_allclose(channels, nothing, rtol=1e-6)


@pytest.mark.slow
def test_share_is_the_probability_to_be_hidden():
  """A generator that copies: the loss is the share of ones that are hidden."""
  ones = jnp.ones((40, 30, 30, 1))
  centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
  layer = {"kernel": centre, "bias": jnp.zeros(1)}
  loss = functools.partial(
    losses.mgd, ones, ones, params={"generator": [layer, layer]}, reduction="elements"
  )
  share = loss(key=jax.random.key(0), hidden_share=0.2)
  np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_wrong_options_are_refused():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="key, kept: expected one of them.* got neither"):
    _loss()
  with pytest.raises(ValueError, match="key, kept: expected one of them.* got both"):
    _loss(key=key, kept=np.ones((3, 5, 4), bool))
  with pytest.raises(ValueError, match=r"kept: expected shape \(3, 5, 4\), got \(3, 6"):
    _loss(kept=np.ones((3, 6), bool))
  with pytest.raises(ValueError, match="hidden_share: expected a number from 0 to 1"):
    _loss(key=key, hidden_share=1.5)
  with pytest.raises(ValueError, match="hidden: expected one of 'positions'"):
    _loss(key=key, hidden="pixels")

"""A frozen teacher and what it makes of a batch."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flowkd_jax import capture
from flowkd_jax.teacher_cache import _teacher


class _Linear(nn.Module):
  taps: tuple[str, ...] = ("hidden",)

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(2, use_bias=False, name="hidden")(images)
    return nn.Dense(3, use_bias=False, name="head")(x)


@pytest.fixture
def variables():
  hidden = np.array([[1, 2], [3, 4]], np.float32)
  head = np.array([[1, 0, 1], [0, 1, 1]], np.float32)
  return {"params": {"hidden": {"kernel": hidden}, "head": {"kernel": head}}}


def test_outputs_are_logits_and_the_taps_that_are_read(variables):
  teacher = _teacher.Teacher(_teacher.Network(_Linear(), variables), ("hidden",))
  images = np.array([[1, 1], [0, 2]], np.float32)
  found = _teacher.teacher_outputs(teacher, variables, jnp.asarray(images))
  hidden = images @ variables["params"]["hidden"]["kernel"]
  assert [*found] == ["logits", "taps/hidden"]
  np.testing.assert_allclose(found["taps/hidden"], hidden)
  head = variables["params"]["head"]["kernel"]
  np.testing.assert_allclose(found["logits"], hidden @ head)


def test_variables_are_those_given_not_those_of_the_network(variables):
  teacher = _teacher.Teacher(_teacher.Network(_Linear(), {}), ())
  found = _teacher.teacher_outputs(teacher, variables, jnp.ones((1, 2)))
  assert [*found] == ["logits"]
  np.testing.assert_allclose(found["logits"], [[4, 6, 10]])


def test_model_of_several_outputs_is_refused(monkeypatch, variables):
  def apply_with_taps(*args, **kwargs):
    return (jnp.zeros((1, 3)), jnp.zeros((1, 2))), {}

  monkeypatch.setattr(capture, "apply_with_taps", apply_with_taps)
  teacher = _teacher.Teacher(_teacher.Network(_Linear(), variables), ())
  with pytest.raises((ValueError, TypeError), match="logits alone"):
    _teacher.teacher_outputs(teacher, variables, jnp.ones((1, 2)))

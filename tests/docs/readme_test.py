"""The first example of the README is run, and is right."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.fixture
def loss():
  (example, *_) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
  names = {}
  exec(example, names)
  return names["loss"]


@pytest.mark.slow
def test_first_example_is_zero_for_a_student_equal_to_its_teacher(loss):
  rng = np.random.default_rng(0)
  taps = {
    name: jnp.asarray(rng.standard_normal((8, width)), jnp.float32)
    for name, width in (("stem", 6), ("layer1", 4), ("pooled", 3))
  }
  assert loss(taps, dict(reversed(taps.items()))) == 0


@pytest.mark.slow
def test_first_example_refuses_other_names(loss):
  taps = {"stem": jnp.eye(4)}, {"input": jnp.eye(4)}
  with pytest.raises(ValueError, match=r"pass pairs=\{'stem': 'TEACHER_TAP'\}"):
    loss(*taps)

"""Checks that metrics and states are finite."""

import collections
import math

import jax.numpy as jnp
import optax
import pytest

from flowkd_jax.train import _finite


@pytest.mark.parametrize(
  ("metrics", "expected"),
  [
    ({}, (0, [])),
    ({"a": [1.0, 2.0]}, (2, [])),
    ({"a": [1.0, math.nan], "b": [1.0, math.inf]}, (1, ["a", "b"])),
    ({"a": [1.0, math.nan], "b": [-math.inf, 1.0]}, (0, ["b"])),
  ],
)
def test_first_step_that_is_not_finite_is_found(metrics, expected):
  assert _finite.first_non_finite(metrics) == expected


def test_arrays_that_are_not_finite_are_named_but_not_those_of_the_optimizer():
  state_of = collections.namedtuple("State", ["params", "opt_state", "count"])
  bad = jnp.array([1.0, jnp.inf])
  state = state_of(
    {"good": jnp.ones(2), "bad": bad}, optax.TraceState(bad), jnp.array(3)
  )
  assert _finite.non_finite_arrays(state) == ["params/bad"]
  assert _finite.non_finite_arrays({"count": jnp.array(3)}) == []
